/* One or two rows of x, by tables that stand in registers while rows of signs look them up. */

/* A sum is taken where it stands: otherwise GCC does all look-ups of a word first, and has to put
 * them into memory. */
#define HERE(sum) __asm__ volatile("" : "+x"(sum))
#ifdef QTOOLS_EMULATE_AVX512
#define HERE_AVX512(sum)
#else
#define HERE_AVX512(sum) __asm__ volatile("" : "+v"(sum))
#endif

#define SUMS2 12 /* tables of a word: for each byte of 3, 3 and 2 columns */
#define SUMS5 8  /* of 4 columns */

AVX2 static void table_avx2(const float *u, int64_t words, float *table) {
    __m256i code = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), minus = _mm256_set1_epi32(INT32_MIN);
    __m256 signs[3];
    for (int k = 0; k < 3; k++)
        signs[k] = _mm256_castsi256_ps(_mm256_and_si256(_mm256_slli_epi32(code, 31 - k), minus));
    for (int64_t byte = 0; byte < 4 * words; byte++, u += 8, table += 24)
        for (int group = 0; group < 3; group++) {
            const float *v = u + 3 * group;
            __m256 sum = _mm256_add_ps(_mm256_xor_ps(_mm256_set1_ps(v[0]), signs[0]),
                                       _mm256_xor_ps(_mm256_set1_ps(v[1]), signs[1]));
            if (group < 2) sum = _mm256_add_ps(sum, _mm256_xor_ps(_mm256_set1_ps(v[2]), signs[2]));
            _mm256_store_ps(table + 8 * group, sum);
        }
}

/* N rows of x times R half tiles of 8 rows; tables of one row of x are `size` floats apart. A load
 * that begins b bytes on has byte b of every row lowest: that spares shifts. vpermps looks at the
 * lowest 3 bits of a lane, vpermilps at the lowest 2. */
#define LOOK_AVX2(N, R)                                                                            \
    AVX2 static void look_avx2_##N##_##R(const uint32_t *codes, int64_t words, const float *table, \
                                         int64_t size, float *sums) {                              \
        __m256 sum[N][R];                                                                          \
        for (int n = 0; n < N; n++)                                                                \
            for (int r = 0; r < R; r++) sum[n][r] = _mm256_setzero_ps();                           \
        for (int64_t word = 0; word < words; word++, codes += TILE)                                \
            _Pragma("GCC unroll 4") for (int byte = 0; byte < 4; byte++, table += 24)              \
                _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) {                              \
                    const uint32_t *at = codes + r / 2 * words * TILE + r % 2 * 8;                 \
                    if (byte == 0 && r % 2 == 0) /* the same words of the next tiles */            \
                        __builtin_prefetch(at + R / 2 * words * TILE, 0, 2);                       \
                    __m256i low = _mm256_loadu_si256((const __m256i *)((const char *)at + byte));  \
                    __m256i middle = _mm256_srli_epi32(low, 3), high = DOWN_6(low);                \
                    _Pragma("GCC unroll 2") for (int n = 0; n < N; n++) {                          \
                        const float *of = table + n * size;                                        \
                        __m256 two = _mm256_permutevar8x32_ps(_mm256_load_ps(of), low);            \
                        HERE(two);                                                                 \
                        ADD(two, _mm256_permutevar_ps(_mm256_load_ps(of + 16), high));             \
                        ADD(sum[n][r], _mm256_permutevar8x32_ps(_mm256_load_ps(of + 8), middle));  \
                        ADD(sum[n][r], two);                                                       \
                    }                                                                              \
                }                                                                                  \
        for (int n = 0; n < N; n++)                                                                \
            for (int r = 0; r < R; r++) _mm256_store_ps(sums + 8 * (n * R + r), sum[n][r]);        \
    }
#define ADD(sum, more) sum = _mm256_add_ps(sum, more); HERE(sum)
/* v >> 6 in the lower half of each lane, by a multiplier: shifts and look-ups share their ports. */
#define DOWN_6(v) _mm256_mulhi_epu16(v, _mm256_set1_epi16(1 << 10))
LOOK_AVX2(1, 2)
LOOK_AVX2(1, 4)
LOOK_AVX2(2, 2)
LOOK_AVX2(2, 4)

AVX512 static void table_avx512(const float *u, int64_t words, float *table) {
    __m512i signs[4];
    for (int k = 0; k < 4; k++) {
        int32_t sign[16];
        for (int c = 0; c < 16; c++) sign[c] = c >> k & 1 ? INT32_MIN : 0;
        signs[k] = _mm512_loadu_si512(sign);
    }
    for (int64_t group = 0; group < SUMS5 * words; group++, u += 4, table += 16) {
        __m512 v[4];
        for (int k = 0; k < 4; k++)
            v[k] = _mm512_castsi512_ps(
                _mm512_xor_si512(_mm512_castps_si512(_mm512_set1_ps(u[k])), signs[k]));
        _mm512_storeu_ps(table, _mm512_add_ps(_mm512_add_ps(v[0], v[1]), _mm512_add_ps(v[2], v[3])));
    }
}

/* N rows of x times R tiles, four columns a look-up: the lowest 4 bits of a lane, then the next 4. */
#define LOOK_AVX512(N, R)                                                                          \
    AVX512 static void look_avx512_##N##_##R(const uint32_t *codes, int64_t words,                 \
                                             const float *table, int64_t size, float *sums) {      \
        __m512 sum[N][R];                                                                          \
        for (int n = 0; n < N; n++)                                                                \
            for (int r = 0; r < R; r++) sum[n][r] = _mm512_setzero_ps();                           \
        for (int64_t word = 0; word < words; word++, codes += TILE, table += 16 * SUMS5)           \
            _Pragma("GCC unroll 4") for (int byte = 0; byte < 4; byte++)                           \
                _Pragma("GCC unroll 2") for (int n = 0; n < N; n++) {                              \
                    const float *of = table + n * size + 32 * byte;                                \
                    __m512 low = _mm512_loadu_ps(of), high = _mm512_loadu_ps(of + 16);             \
                    _Pragma("GCC unroll 16") for (int r = 0; r < R; r++) {                         \
                        const uint32_t *at = codes + r * words * TILE;                             \
                        __m512i code = _mm512_loadu_si512((const char *)at + byte);                \
                        sum[n][r] = _mm512_add_ps(sum[n][r], _mm512_permutexvar_ps(code, low));    \
                        HERE_AVX512(sum[n][r]);                                                    \
                        code = _mm512_srli_epi32(code, 4);                                         \
                        sum[n][r] = _mm512_add_ps(sum[n][r], _mm512_permutexvar_ps(code, high));   \
                        HERE_AVX512(sum[n][r]);                                                    \
                    }                                                                              \
                }                                                                                  \
        for (int n = 0; n < N; n++)                                                                \
            for (int r = 0; r < R; r++) _mm512_storeu_ps(sums + 16 * (n * R + r), sum[n][r]);      \
    }
LOOK_AVX512(1, 1)
LOOK_AVX512(1, 8)
LOOK_AVX512(2, 1)
LOOK_AVX512(2, 8)

typedef void (*Look)(const uint32_t *, int64_t, const float *, int64_t, float *);
static const struct {
    Look wide, narrow;
    int tiles; /* that wide does */
} LOOKS[2][2] = {
    {{look_avx2_1_4, look_avx2_1_2, 2}, {look_avx2_2_4, look_avx2_2_2, 2}},
    {{look_avx512_1_8, look_avx512_1_1, 8}, {look_avx512_2_8, look_avx512_2_1, 8}},
};

/* n rows of x, 1 or 2, by the tiles from `first` to before `last`. */
static void registers(const Task *t, int64_t row, int64_t n, int64_t first, int64_t last,
                      char *scratch) {
    int wide = t->path == AVX512_PATH;
    int64_t size = t->words * (wide ? 16 * SUMS5 : 8 * SUMS2);
    float *table = (float *)scratch, *sums = table + 2 * size, *u = sums + 256;
    for (int64_t i = 0; i < n; i++) {
        prepare(t, row + i, u);
        if (wide) table_avx512(u, t->words, table + i * size);
        else table_avx2(u, t->words, table + i * size);
    }
    const int tiles_at_once = LOOKS[wide][n - 1].tiles;
    for (int64_t tile = first, tiles; tile < last; tile += tiles) {
        int all = last - tile >= tiles_at_once;
        tiles = all ? tiles_at_once : 1;
        (all ? LOOKS[wide][n - 1].wide : LOOKS[wide][n - 1].narrow)(
            t->codes + tile * t->words * TILE, t->words, table, size, sums);
        int64_t rows = smaller(tiles * TILE, t->rows - tile * TILE);
        for (int64_t i = 0; i < n; i++) {
            float *y = t->y + (row + i) * t->rows + tile * TILE;
            memcpy(y, sums + i * tiles * TILE, (size_t)rows * 4);
            finish(t, y, tile * TILE, rows);
        }
    }
}
