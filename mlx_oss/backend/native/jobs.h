/* The jobs, with vectors of W floats. A product keeps up to SUM_VECTORS sums in registers, attention
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
typedef float anywhere __attribute__((vector_size(4 * W), aligned(1), may_alias));
typedef uint16_t halves __attribute__((vector_size(2 * W), aligned(1), may_alias));
typedef uint8_t bytes __attribute__((vector_size(W), aligned(1), may_alias));

#include "vectors.h"
#include "product.h"
#include "attention.h"
