enum { X_TOGETHER = 3, W = 4, MATRIX_ROWS = 4, TOGETHER = 2 };
#include "jobs.h"
const Level plain = {"C", product_job, attention_job};
