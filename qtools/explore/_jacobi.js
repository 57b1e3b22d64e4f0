function dot(a, b) {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i] * b[i];
  return total;
}

// One-sided Jacobi: turn the rows, in place, until each is at right angles to every other. They are
// then sigma_i v_i, in no order: singular values and right vectors.
function jacobi(rows) {
  for (let turned = true, sweep = 0; turned && sweep < 40; sweep++) {
    turned = false;
    for (let p = 0; p < rows.length - 1; p++)
      for (let q = p + 1; q < rows.length; q++) {
        const [a, b] = [rows[p], rows[q]];
        const [aa, bb, ab] = [dot(a, a), dot(b, b), dot(a, b)];
        if (Math.abs(ab) <= 1e-14 * Math.sqrt(aa * bb)) continue;
        turned = true;
        const z = (bb - aa) / (2 * ab);
        const t = (z < 0 ? -1 : 1) / (Math.abs(z) + Math.hypot(1, z));
        const c = 1 / Math.hypot(1, t);
        for (let j = 0; j < a.length; j++) [a[j], b[j]] = [c * (a[j] - t * b[j]), c * (t * a[j] + b[j])];
      }
  }
  return rows;
}
