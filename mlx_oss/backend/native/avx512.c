#if defined(__x86_64__)
#include <immintrin.h>
#define AVX512
#define TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"
enum { X_TOGETHER = 3, W = 16, MATRIX_ROWS = 8, TOGETHER = 4 };
#include "jobs.h"
const Level avx512 = {"AVX-512", product_job, attention_job};
#endif
