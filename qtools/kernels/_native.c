/* y = h * (S (g * x)) with S of -1 and +1, one bit each. Plain C ABI, see native.py.
 *
 * No multiplication by a sign is done. Inputs go in groups; of each group all signed sums are
 * tabled, and the bits of a row select one of them:
 *   in registers   3 inputs, 8 sums, one vpermps for 8 rows (AVX2); 4, 16 and 16 (AVX-512);
 *   in the cache   8 inputs, 256 sums, each a vector over W rows of x: one addition does 8 W
 *                  products. W = 1 is the portable way for a single row.
 * Bit j of word w of a row is the sign of column 32 w + j, set for -1. The codes have the rows in
 * tiles of 16, side by side: [tiles][words][16] uint32; for the portable paths, which read a row of
 * four words at a time, [words / 4][tiles][16][4]. The last tile and words are padded with zeros.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "_pool.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the codes are little-endian words"
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#define HAS_X86 1
#define AVX2 __attribute__((target("avx2,f16c")))
#ifdef QTOOLS_EMULATE_AVX512 /* a test runs the AVX-512 code where the processor has none */
#include "emulated_avx512.h"
#define AVX512 __attribute__((target("avx2,f16c")))
#else
#define AVX512 __attribute__((target("avx512f,avx2,f16c")))
#endif
#endif
#define TILE 16

enum { PORTABLE, AVX2_PATH, AVX512_PATH, NEON };
enum { F32, F16, BF16, NONE };

int qtools_abi(void) { return 1; }

/* Whether this processor can run a path. */
int qtools_supports(int path) {
    switch (path) {
    case PORTABLE: return 1;
#ifdef HAS_X86
    case AVX2_PATH: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
#ifdef QTOOLS_EMULATE_AVX512
    case AVX512_PATH: return 1;
#else
    case AVX512_PATH: return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("f16c");
#endif
#endif
#ifdef __aarch64__
    case NEON: return 1;
#endif
    default: return 0;
    }
}

/* Words of a row in the codes of a path: as many as the bits have, two for 64 columns, but whole
 * groups of 4 where a row has them side by side. */
static int64_t words_of(int path, int64_t columns) {
    return path == PORTABLE || path == NEON ? (columns + 127) / 128 * 4 : (columns + 63) / 64 * 2;
}

/* Word w of row r of a tile, of `words` a row and `tiles` tiles. */
#define BY_ROW(w, tile, r) (t->codes + (((w) / 4 * t->tiles + (tile)) * TILE + (r)) * 4 + (w) % 4)
#define BY_TILE(w, tile, r) (t->codes + ((tile) * t->words + (w)) * TILE + (r))

/* uint32 words that `qtools_repack` writes: a tile's row more, which loads a few bytes on may touch. */
int64_t qtools_words(int path, int64_t rows, int64_t columns) {
    return (rows + TILE - 1) / TILE * TILE * words_of(path, columns) + TILE;
}

/* Bytes of rows, `stride` apart, to the codes of a path. */
void qtools_repack(int path, const uint8_t *bits, int64_t stride, int64_t rows, int64_t columns,
                   uint32_t *codes) {
    struct { uint32_t *codes; int64_t words, tiles; } task, *t = &task;
    task.codes = codes;
    task.words = words_of(path, columns);
    task.tiles = (rows + TILE - 1) / TILE;
    int by_row = path == PORTABLE || path == NEON;
    memset(codes + task.tiles * TILE * task.words, 0, TILE * 4);
    for (int64_t tile = 0; tile < task.tiles; tile++)
        for (int64_t word = 0; word < task.words; word++)
            for (int64_t r = 0; r < TILE; r++) {
                int64_t row = tile * TILE + r;
                uint32_t value = 0;
                if (row < rows && 32 * word < columns)
                    memcpy(&value, bits + row * stride + 4 * word, 4);
                *(by_row ? BY_ROW(word, tile, r) : BY_TILE(word, tile, r)) = value;
            }
}

/* Bytes of tables for one row of x, at most. */
#define TABLES (4 * 1024 * 4)

/* A table of 256 sums is worth its making for so many rows of signs. */
#ifndef FEW_ROWS
#define FEW_ROWS 256
#endif

typedef struct Task {
    int path, g_type, h_type;
    const uint32_t *codes;
    int64_t rows, columns, words, tiles, batch, x_stride;
    const float *x;
    const void *g, *h;
    float *y;
    /* How: rows of x and tiles of codes in one piece of work. */
    void (*way)(const struct Task *, int64_t row, int64_t n, int64_t first, int64_t last, char *);
    int64_t step, part;
} Task;

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline float from_bfloat(uint16_t half) { return from_bits((uint32_t)half << 16); }

/* The exponent's offset is 112 less; as a product, so that subnormal numbers come right. */
static inline float from_half(uint16_t half) {
    float size = from_bits((uint32_t)(half & 0x7fff) << 13) * 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &size, 4);
    if (size >= 65536.0f) bits |= 0x7f800000; /* infinite or not a number */
    return from_bits(bits | (uint32_t)(half & 0x8000) << 16);
}

#ifdef HAS_X86
AVX2 static int64_t scale_half(const float *x, const uint16_t *v, int64_t n, float *out) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 wide = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(v + i)));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), wide));
    }
    return i;
}
#endif

/* out = x * v over n elements, v of any type; out may be x. */
static void scale(int path, const float *x, const void *v, int type, int64_t n, float *out) {
    int64_t i = 0;
#ifdef HAS_X86
    if (type == F16 && path != PORTABLE) i = scale_half(x, v, n, out);
#endif
    (void)path;
    if (type == F32)
        for (; i < n; i++) out[i] = x[i] * ((const float *)v)[i];
    else if (type == F16)
        for (; i < n; i++) out[i] = x[i] * from_half(((const uint16_t *)v)[i]);
    else if (type == BF16)
        for (; i < n; i++) out[i] = x[i] * from_bfloat(((const uint16_t *)v)[i]);
    else if (out != x)
        memcpy(out, x, (size_t)n * 4);
}

/* u = g * x of one row, and zeros up to whole words. */
static void prepare(const Task *t, int64_t row, float *u) {
    scale(t->path, t->x + row * t->x_stride, t->g, t->g_type, t->columns, u);
    memset(u + t->columns, 0, (size_t)(32 * t->words - t->columns) * 4);
}

/* y = h * y for n rows from `first`. */
static void finish(const Task *t, float *y, int64_t first, int64_t n) {
    int size = t->h_type == F32 ? 4 : 2;
    const void *h = t->h_type == NONE ? NULL : (const char *)t->h + first * size;
    scale(t->path, y, h, t->h_type, n, y);
}

#include "_tables.h"
#ifdef HAS_X86
#include "_registers.h"
#endif

/* ---- which way, in which pieces ---- */

static void piece(const void *task, int64_t index, char *scratch) {
    const Task *t = task;
    int64_t parts = (t->tiles + t->part - 1) / t->part;
    int64_t row = index / parts * t->step, first = index % parts * t->part;
    t->way(t, row, smaller(t->step, t->batch - row), first, smaller(t->tiles, first + t->part),
           scratch);
}

/* The fastest way for some rows of x, as measured, and how many rows it takes at once. */
static void choose(Task *t, int64_t batch) {
    int few = t->rows < FEW_ROWS, lanes = batch <= 2 ? 1 : batch <= 4 ? 4 : batch <= 8 ? 8 : 16;
#ifdef HAS_X86
    if (t->path != PORTABLE) {
        if (t->path == AVX2_PATH && lanes == 16) lanes = 8;
        if (lanes == 1) t->way = registers, lanes = 2;
        else if (lanes == 4 && !few) t->way = bytes_4_by_tile;
        else if (lanes == 16) t->way = few ? halves_16 : bytes_16;
        else t->way = few ? halves_8 : bytes_8, lanes = 8;
        t->step = lanes;
        return;
    }
#endif
#ifdef __aarch64__
    if (t->path == NEON && lanes >= 8) {
        t->way = few ? halves_8 : bytes_8;
        t->step = 8;
        return;
    }
#endif
    if (lanes > 1) t->way = few ? halves_4 : bytes_4, lanes = 4;
    else t->way = few ? halves_1 : bytes_1;
    t->step = lanes;
}

static int run(Task *t, int64_t start, int64_t batch, int threads) {
    Task part = *t;
    part.x += start * t->x_stride;
    part.y += start * t->rows;
    part.batch = batch;
    int64_t groups = (batch + t->step - 1) / t->step;
    /* A few pieces a thread keep all busy to the end; but a piece makes its own tables. */
    int64_t parts = threads < 2 ? 1 : (3 * threads + groups - 1) / groups;
    int64_t least = t->step < 4 ? 16 : 64, most = 256;
    part.part = (t->tiles + parts - 1) / parts;
    if (part.part < least) part.part = least;
    if (part.part > most) part.part = most;
    Work work = {.piece = piece, .task = &part};
    work.pieces = groups * ((t->tiles + part.part - 1) / part.part);
    size_t u = (size_t)t->words * 32 * 4, lanes = (size_t)t->step;
    /* Of `registers`: 2 tables, sums, u. Of the others: tables, sums, u of W rows, u of one. */
    size_t registers_bytes = u * 4 * 2 + 1024 + u;
    size_t bytes = (TABLES + (size_t)part.part * TILE * 4 + u) * lanes + u;
    work.scratch_bytes = (int64_t)((bytes > registers_bytes ? bytes : registers_bytes) + 63) / 64 * 64;
    if (threads > work.pieces) threads = (int)work.pieces;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    work.scratch = aligned_alloc(64, (size_t)(threads < 1 ? 1 : threads) * (size_t)work.scratch_bytes);
    if (!work.scratch) return 1;
    pool_run(&work, threads);
    free(work.scratch);
    return 0;
}

/* Returns 0, or 1 if there is no memory. y is [batch, rows]; rows of x are `x_stride` apart. */
int qtools_run(int path, const uint32_t *codes, int64_t rows, int64_t columns, const float *x,
               int64_t batch, int64_t x_stride, const void *g, int g_type, const void *h,
               int h_type, float *y, int threads) {
    Task t = {.path = path, .g_type = g_type, .h_type = h_type, .codes = codes, .rows = rows,
              .columns = columns, .words = words_of(path, columns),
              .tiles = (rows + TILE - 1) / TILE, .batch = batch, .x_stride = x_stride, .x = x, .g = g, .h = h, .y = y};
    if (!rows || !batch) return 0;
    /* Whole groups first; a rest that another way does faster, after them. */
    choose(&t, batch);
    int64_t rest = batch % t.step;
    if (rest < batch && run(&t, 0, batch - rest, threads)) return 1;
    if (!rest) return 0;
    choose(&t, rest);
    return run(&t, batch - rest, rest, threads);
}
