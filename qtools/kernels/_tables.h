/* Tables in the cache: a function of `_bytes.h` for each number W of rows of x and kind of processor. */

typedef float four __attribute__((vector_size(16)));
typedef float eight __attribute__((vector_size(32)));
typedef float sixteen __attribute__((vector_size(64)));

#define TARGET
#define CODE BY_ROW
#define NAME bytes_1
#define VECTOR float
#define W 1
#define WORDS 4
#define BITS 8
#include "_bytes.h"
#define NAME halves_1
#define VECTOR float
#define W 1
#define WORDS 4
#define BITS 4
#include "_bytes.h"
#define NAME bytes_4
#define VECTOR four
#define W 4
#define WORDS 1
#define BITS 8
#include "_bytes.h"
#define NAME halves_4
#define VECTOR four
#define W 4
#define WORDS 4
#define BITS 4
#include "_bytes.h"
#ifdef __aarch64__
#define NAME bytes_8
#define VECTOR eight
#define W 8
#define WORDS 1
#define BITS 8
#include "_bytes.h"
#define NAME halves_8
#define VECTOR eight
#define W 8
#define WORDS 2
#define BITS 4
#include "_bytes.h"
#endif
#ifdef HAS_X86
#undef TARGET
#undef CODE
#define TARGET AVX2
#define CODE BY_TILE
#define NAME bytes_4_by_tile
#define VECTOR four
#define W 4
#define WORDS 1
#define BITS 8
#include "_bytes.h"
#define NAME bytes_8
#define VECTOR eight
#define W 8
#define WORDS 1
#define BITS 8
#include "_bytes.h"
#define NAME halves_8
#define VECTOR eight
#define W 8
#define WORDS 2
#define BITS 4
#include "_bytes.h"
#undef TARGET
#define TARGET AVX512
#define NAME bytes_16
#define VECTOR sixteen
#define W 16
#define WORDS 1
#define BITS 8
#include "_bytes.h"
#define NAME halves_16
#define VECTOR sixteen
#define W 16
#define WORDS 2
#define BITS 4
#include "_bytes.h"
#endif
