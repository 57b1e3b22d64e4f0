// Wellons' lowbias32, and from twelve of its bytes a nearly normal number: whole numbers only, so
// that Python makes the same (_hash.py).
function hash(v) {
  v = Math.imul(v ^ (v >>> 16), 0x7feb352d);
  v = Math.imul(v ^ (v >>> 15), 0x846ca68b);
  return v ^ (v >>> 16);
}
function bell(i) {
  let z = -1530;
  for (let b = 0; b < 12; b++) z += (hash(3 * i + (b >> 2)) >>> (8 * (b & 3))) & 255;
  return z / 256;
}
