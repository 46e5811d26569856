// The sums of a matrix's columns in float64, the same bits for every number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "shared/element.h"
#include "shared/isa.h"
#include "shared/parallel.h"
#include "shared/row_sums.h"

namespace aefast::AEFAST_ISA {

// Fewer elements are summed sooner by one thread than a second one wakes up.
constexpr int64_t kFewElements = 1 << 14;

// Calls body(begin, end) for a row's chunks, until signals end the task.
template <class Body>
void for_each_chunk(int64_t columns, const Body& body) {
    for (int64_t begin = 0; begin < columns; begin += kElementsBetweenSignalChecks) {
        if (interrupted_at(begin)) return;
        body(begin, std::min(begin + kElementsBetweenSignalChecks, columns));
    }
}

// Calls body(begin, end) for a row's chunks outside of a task, in order on this thread.
template <class Body>
void in_chunks(int64_t columns, const Body& body) {
    parallel_for(1, (columns + kElementsBetweenSignalChecks - 1) / kElementsBetweenSignalChecks,
                 [&](int64_t chunk) {
                     const int64_t begin = chunk * kElementsBetweenSignalChecks;
                     body(begin, std::min(begin + kElementsBetweenSignalChecks, columns));
                 });
}

// partial_sums holds columns doubles for each block of kRowsPerPartialSum rows. The blocks are
// added in their order; the first one holds the result.
template <class Element>
void column_sums(const Element* matrix, int64_t row_stride, int64_t rows, int64_t columns,
                 double* partial_sums, int max_threads) {
    const int64_t blocks = row_blocks(rows);
    const int threads = rows * columns <= kFewElements ? 1 : max_threads;
    parallel_for(threads, blocks, [&](int64_t block) {
        double* __restrict sums = partial_sums + block * columns;
        for_each_chunk(
            columns, [&](int64_t begin, int64_t end) { std::fill(sums + begin, sums + end, 0.0); });
        const int64_t last = std::min((block + 1) * kRowsPerPartialSum, rows);
        for (int64_t row = block * kRowsPerPartialSum; row < last; ++row) {
            const Element* values = matrix + row * row_stride;
            for_each_chunk(columns, [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i) sums[i] += to_float(values[i]);
            });
        }
    });
    in_chunks(columns, [&](int64_t begin, int64_t end) {
        for (int64_t block = 1; block < blocks; ++block) {
            const double* sums = partial_sums + block * columns;
            for (int64_t i = begin; i < end; ++i) partial_sums[i] += sums[i];
        }
    });
}

}  // namespace aefast::AEFAST_ISA
