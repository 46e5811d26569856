// The rows of a matrix of latents that a sparse code names: their sum, each times its value, and
// their products with a row. For kernels' sources.
#pragma once

#include <algorithm>
#include <cstdint>

#include "gemm/blocking.h"
#include "gemm/panel.h"
#include "ops/topk/topk.h"

namespace aefast::AEFAST_ISA {

// No more threads than have work that is worth starting them for: so many products each.
inline int useful_threads(int threads, double products) {
    constexpr double kProductsPerThread = 1 << 18;
    return static_cast<int>(std::clamp(products / kProductsPerThread, 1., double(threads)));
}

inline double products_of(const SparseCode& code, int64_t columns) {
    return static_cast<double>(code.rows) * code.k * columns;
}

// Rows of a matrix that are read at a time: more streams than one hide memory's latency.
constexpr int kStreams = 4;

// output = start + sum over `count` rows of factor * row.
template <int count>
void add_rows(const float* factors, const float* const* rows, int64_t columns, const float* start,
              float* output) {
    int64_t column = 0;
    for (; column + kFloatLanes <= columns; column += kFloatLanes) {
        Vector sum = factors[0] * load(rows[0] + column);
#pragma GCC unroll 4
        for (int r = 1; r < count; ++r) sum += factors[r] * load(rows[r] + column);
        store(output + column, start == nullptr ? sum : sum + load(start + column));
    }
    for (; column < columns; ++column) {
        float sum = factors[0] * rows[0][column];
        for (int r = 1; r < count; ++r) sum += factors[r] * rows[r][column];
        output[column] = start == nullptr ? sum : sum + start[column];
    }
}

// output = start + sum over all `count` rows; start is a row, or null for zeros.
template <class FactorAt, class RowAt>
void sum_rows(int64_t count, const FactorAt& factor_at, const RowAt& row_at, int64_t columns,
              const float* start, float* output) {
    if (count == 0) {
        if (start == nullptr)
            std::fill_n(output, columns, 0.f);
        else if (start != output)
            std::copy_n(start, columns, output);
    }
    for (int64_t i = 0; i < count; i += kStreams) {
        float factors[kStreams];
        const float* rows[kStreams];
        const int64_t streams = smaller(kStreams, count - i);
        for (int64_t r = 0; r < streams; ++r) {
            factors[r] = factor_at(i + r);
            rows[r] = row_at(i + r);
        }
        switch (streams) {
            case 1:
                add_rows<1>(factors, rows, columns, start, output);
                break;
            case 2:
                add_rows<2>(factors, rows, columns, start, output);
                break;
            case 3:
                add_rows<3>(factors, rows, columns, start, output);
                break;
            default:
                add_rows<4>(factors, rows, columns, start, output);
        }
        start = output;
    }
}

inline float total(Vector lanes) {
    float sums[kFloatLanes];
    store(sums, lanes);
    for (int width = kFloatLanes / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
    return sums[0];
}

// products[r] = left * rows[r].
template <int count>
void dot_rows(const float* left, const float* const* rows, int64_t columns, float* products) {
    Vector sums[count][2] = {};
    int64_t column = 0;
    for (; column + 2 * kFloatLanes <= columns; column += 2 * kFloatLanes) {
        const Vector low = load(left + column), high = load(left + column + kFloatLanes);
#pragma GCC unroll 4
        for (int r = 0; r < count; ++r) {
            sums[r][0] += low * load(rows[r] + column);
            sums[r][1] += high * load(rows[r] + column + kFloatLanes);
        }
    }
    for (int r = 0; r < count; ++r) {
        float rest = 0;
        for (int64_t c = column; c < columns; ++c) rest += left[c] * rows[r][c];
        products[r] = total(sums[r][0] + sums[r][1]) + rest;
    }
}

// products[i] = left * row i, of `count` rows.
template <class RowAt>
void dot_selected_rows(const float* left, int64_t count, const RowAt& row_at, int64_t columns,
                       float* products) {
    const float* rows[kStreams];
    int64_t i = 0;
    for (; i + kStreams <= count; i += kStreams) {
        for (int r = 0; r < kStreams; ++r) rows[r] = row_at(i + r);
        dot_rows<kStreams>(left, rows, columns, products + i);
    }
    for (; i < count; ++i) {
        rows[0] = row_at(i);
        dot_rows<1>(left, rows, columns, products + i);
    }
}

// Rows of a task: some 64 KiB of what a row reads.
inline int64_t rows_per_task(int64_t rows, int threads) {
    return larger(1, smaller(32, rows / (4 * threads)));
}

}  // namespace aefast::AEFAST_ISA
