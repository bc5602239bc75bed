// Rows of a data set.  The compiler is given SOURCE, the type of its elements.
#include "device.h"

// out = data at the rows, times scale.  Rows from the end are negative; others that are not there
// wrap round, as in cupy.take: a kernel cannot refuse them.
KERNEL gather_rows(
    const SOURCE* data_KMD, const index_t* row_N, real scale, real* out_KND, index_t M, index_t N,
    index_t D, index_t size)
{
    for (index_t i = first_element(); i < size; i += all_threads()) {
        index_t d = i % D, n = i / D % N, k = i / (D * N);
        index_t row = row_N[n] % M;
        if (row < 0) row += M;
        out_KND[i] = (real)data_KMD[(k * M + row) * D + d] * scale;
    }
}
