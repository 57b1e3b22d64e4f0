/* Every path of _native.c on buffers that end where their values end: a sanitizer or valgrind sees a
 * read behind them. Values are compared with a sum in double. Prints the paths that ran. */
#include "../../qtools/kernels/_native.c"

#include <math.h>
#include <stdio.h>

static uint32_t state = 1;
static uint32_t draw(void) { return state = state * 1664525u + 1013904223u; }
static float real(void) { return (float)(int32_t)draw() / 2147483648.0f; }

static int wrong(int path, int64_t rows, int64_t columns, int64_t batch, int type, int threads) {
    int64_t octets = (columns + 63) / 64 * 8, gap = columns % 3, size = type == F32 ? 4 : 2;
    uint8_t *bits = malloc(rows * octets + !rows);
    /* Rows of x have a gap between them, but none behind the last. */
    float *x = malloc(((batch - 1) * (columns + gap) + columns) * 4), *y = malloc(batch * rows * 4);
    char *g = malloc(columns * size), *h = malloc(rows * size + !rows);
    uint32_t *codes = aligned_alloc(64, qtools_words(path, rows, columns) * 4);
    for (int64_t i = 0; i < rows * octets; i++) bits[i] = draw() >> 24; /* padding too */
    for (int64_t i = 0; i < (batch - 1) * (columns + gap) + columns; i++) x[i] = real();
    for (int64_t i = 0; i < columns + rows; i++) {
        char *at = i < columns ? g + i * size : h + (i - columns) * size;
        float value = real();
        uint16_t half = type == F16 ? draw() >> 16 & 0xbbff : 0; /* below 2, subnormal ones too */
        if (type == BF16) {
            uint32_t word;
            memcpy(&word, &value, 4);
            half = word >> 16;
        }
        memcpy(at, type == F32 ? (void *)&value : (void *)&half, size);
    }
    qtools_repack(path, bits, octets, rows, columns, codes);
    if (qtools_run(path, codes, rows, columns, x, batch, columns + gap, g, type, h, type, y, threads))
        return 1;
    int failed = 0;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t r = 0; r < rows; r++) {
            double sum = 0, most = 0, scale[2];
            for (int64_t k = 0; k <= columns; k++) {
                const char *from = k < columns ? g + k * size : h + r * size;
                uint16_t half;
                float value;
                memcpy(&half, from, 2);
                if (type == F32) memcpy(&value, from, 4);
                else value = type == BF16 ? from_bfloat(half) : from_half(half);
                scale[k == columns] = value;
                if (k == columns) break;
                double product = scale[0] * x[b * (columns + gap) + k];
                sum += bits[r * octets + k / 8] >> k % 8 & 1 ? -product : product;
                most += fabs(product);
            }
            double apart = fabs(y[b * rows + r] - sum * scale[1]);
            failed |= !(apart <= (columns + 3) * 0x1p-24 * 1.01 * most * fabs(scale[1]) + 1e-37);
        }
    if (failed) printf("wrong: path %d, %d x %d, batch %d\n", path, (int)rows, (int)columns, (int)batch);
    free(bits), free(x), free(y), free(g), free(h), free(codes);
    return failed;
}

int main(void) {
    static const int64_t rows[] = {1, 15, 17, 63, 129, 300}, columns[] = {1, 31, 33, 64, 97, 131};
    static const int64_t batches[] = {1, 2, 3, 5, 9, 17};
    int failed = 0, type = 0;
    for (int path = PORTABLE; path <= NEON; path++) {
        if (!qtools_supports(path)) continue;
        printf("path %d\n", path);
        for (int r = 0; r < 6; r++)
            for (int c = 0; c < 6; c++)
                for (int b = 0; b < 6; b++)
                    failed |= wrong(path, rows[r], columns[c], batches[b], type++ % 3, 1);
        failed |= wrong(path, 2100, 70, 1, F16, 3) | wrong(path, 2100, 70, 21, F32, 3);
        failed |= wrong(path, 0, 70, 1, F32, 1);
    }
    return failed;
}
