/* Not timed: tried in an emulator only, where it gives the bits of plain C. */
#if defined(__aarch64__)
#include <arm_neon.h>
#define NEON
enum { W = 4, SUM_VECTORS = 24, X_TOGETHER = 8, TOGETHER = 4 };
#include "jobs.h"
const Level neon = {"NEON", product_job, attention_job};
#endif
