/* n rows of x, at most W, by tables in the first cache: of the 16 signed sums of 4 inputs, or of the
 * 256 of 8, which take longer to make and half as many look-ups. BITS is 4 or 8; NAME, VECTOR, W,
 * TARGET, CODE say the rest. WORDS words of columns have their tables there at a time. */

#define GROUPS (32 / BITS)

TARGET static void NAME(const Task *t, int64_t row, int64_t n, int64_t first, int64_t last,
                        char *scratch) {
    VECTOR *table = (VECTOR *)scratch, *sums = table + (GROUPS * WORDS << BITS);
    VECTOR *u = sums + (last - first) * TILE;
    float *lanes = (float *)u, *line = lanes + 32 * t->words * W;
    for (int64_t lane = 0; lane < W; lane++) {
        if (lane < n) prepare(t, row + lane, line);
        else memset(line, 0, (size_t)(32 * t->words) * 4);
        for (int64_t k = 0; k < 32 * t->words; k++) lanes[k * W + lane] = line[k];
    }
    memset(sums, 0, (size_t)((last - first) * TILE) * sizeof(VECTOR));
    for (int64_t word = 0; word < t->words; word += WORDS) {
        for (int64_t b = 0; b < 4 * WORDS; b++) {
            /* Signed sums of 2 inputs, of 4, of 8: those of the lower by those of the upper ones. */
            const VECTOR *v = u + 32 * word + 8 * b;
            VECTOR twos[4][4], fours[2][16];
            for (int k = 0; k < 4; k++) {
                VECTOR x = v[2 * k], y = v[2 * k + 1];
                twos[k][0] = x + y, twos[k][1] = y - x, twos[k][2] = x - y, twos[k][3] = -x - y;
            }
            for (int k = 0; k < 2; k++)
                for (int c = 0; c < 16; c++) fours[k][c] = twos[2 * k][c % 4] + twos[2 * k + 1][c / 4];
            if (BITS == 8)
                for (int high = 0; high < 16; high++) {
                    VECTOR *at = table + 256 * b + 16 * high;
                    /* Kept as a loop: unrolled, GCC makes vectors across `high`, with shuffles. */
                    _Pragma("GCC unroll 1") for (int low = 0; low < 16; low++)
                        at[low] = fours[0][low] + fours[1][high];
                }
            else memcpy(table + 32 * b, fours, sizeof fours);
        }
        for (int64_t tile = first; tile < last; tile++) {
            VECTOR *sum = sums + (tile - first) * TILE;
            /* The next words of these rows, so that they are near when their turn comes. */
            __builtin_prefetch(CODE(word + WORDS, tile, 0));
            for (int64_t r = 0; r < TILE; r++) {
                VECTOR all = sum[r];
                for (int w = 0; w < WORDS; w++) {
                    uint32_t c = *CODE(word + w, tile, r);
                    VECTOR *at = table + (GROUPS * w << BITS), some = at[c & ((1 << BITS) - 1)];
                    for (int k = 1; k < GROUPS; k++)
                        some += at[(k << BITS) + (c >> BITS * k & ((1 << BITS) - 1))];
                    all += some;
                }
                sum[r] = all;
            }
        }
    }
    int64_t rows = smaller(last * TILE, t->rows) - first * TILE;
    for (int64_t lane = 0; lane < n; lane++) {
        float *y = t->y + (row + lane) * t->rows + first * TILE;
        for (int64_t r = 0; r < rows; r++) y[r] = ((float *)sums)[r * W + lane];
        finish(t, y, first * TILE, rows);
    }
}

#undef GROUPS
#undef NAME
#undef VECTOR
#undef W
#undef WORDS
#undef BITS
