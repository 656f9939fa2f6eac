/* The jobs, with vectors of W floats. A product keeps MATRIX_ROWS times X_TOGETHER sums in registers, attention
 * TOGETHER times 4. */
#include "kernels.h"

#define INLINE static inline __attribute__((always_inline))
enum { X_TOGETHER = 3 };

typedef float vec __attribute__((vector_size(4 * W)));
typedef int32_t ints __attribute__((vector_size(4 * W)));
typedef uint16_t halves __attribute__((vector_size(2 * W)));
typedef uint8_t bytes __attribute__((vector_size(W)));

/* What follows is compiled for a kind of processor that this machine may not be: only its jobs may run it. */
#define PRAGMA_(text) _Pragma(#text)
#define PRAGMA(text) PRAGMA_(text)
#if defined(TARGET) && defined(__clang__)
PRAGMA(clang attribute push(__attribute__((target(TARGET))), apply_to = function))
#elif defined(TARGET)
PRAGMA(GCC target(TARGET))
#endif
#include "vectors.h"
#include "product.h"
#include "attention.h"
#if defined(TARGET) && defined(__clang__)
#pragma clang attribute pop
#endif
