/* What the AVX-512 instructions of _native.c do, in C's vectors: so that its code for them runs, and
 * is checked, on processors without them. Only the instructions themselves are not under test. */
typedef int32_t ints __attribute__((vector_size(64)));
typedef uint32_t words16 __attribute__((vector_size(64)));

static inline __m512 emulated_permute(__m512i index, __m512 a) {
    ints place = (ints)index;
    __m512 result;
    for (int i = 0; i < 16; i++) result[i] = a[place[i] & 15];
    return result;
}
static inline __m512 emulated_load(const void *from) {
    __m512 a;
    memcpy(&a, from, 64);
    return a;
}
static inline void emulated_store(void *to, __m512 a) { memcpy(to, &a, 64); }
static inline __m512 emulated_all(float x) { return (__m512){0} + x; }

#define _mm512_permutexvar_ps emulated_permute
#define _mm512_loadu_ps(from) emulated_load(from)
#define _mm512_loadu_si512(from) ((__m512i)emulated_load(from))
#define _mm512_storeu_ps(to, a) emulated_store(to, a)
#define _mm512_setzero_ps() ((__m512){0})
#define _mm512_set1_ps(x) emulated_all(x)
#define _mm512_add_ps(a, b) ((a) + (b))
#define _mm512_srli_epi32(a, n) ((__m512i)((words16)(a) >> (n)))
#define _mm512_xor_si512(a, b) ((__m512i)((ints)(a) ^ (ints)(b)))
#define _mm512_castps_si512(a) ((__m512i)(a))
#define _mm512_castsi512_ps(a) ((__m512)(a))
