/* The jobs, with vectors of W floats. A product keeps MATRIX_ROWS times X_TOGETHER sums in registers, attention
 * TOGETHER times 4. With TARGET they are compiled for a processor that this machine need not be. */
#include "kernels.h"

#ifdef TARGET
#define HERE __attribute__((target(TARGET)))
#else
#define HERE
#endif
#define INLINE HERE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * W)));
typedef int32_t ints __attribute__((vector_size(4 * W)));
typedef uint64_t words __attribute__((vector_size(4 * W)));
typedef uint16_t halves __attribute__((vector_size(2 * W)));
typedef uint8_t bytes __attribute__((vector_size(W)));

#include "vectors.h"
#include "product.h"
#include "attention.h"
