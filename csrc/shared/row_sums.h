// Sums in float64: of an array, for a loss, and over the rows of a matrix, for a bias's gradient.
// Rows are summed in blocks, which are added in their order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "shared/element.h"
#include "shared/isa.h"

namespace aefast {

// Whatever the thread count, rows are summed in blocks of this many, in float64: the bias gradient
// is the same to the last bit, and no less accurate than torch's cascade of float32 sums.
constexpr int64_t kRowsPerPartialSum = 32;

inline int64_t row_blocks(int64_t rows) {
    return (rows + kRowsPerPartialSum - 1) / kRowsPerPartialSum;
}

}  // namespace aefast

namespace aefast::AEFAST_ISA {

// A sum in float64, in lanes so that the compiler vectorizes it.
class Sum {
  public:
    template <class Term>
    void add(int64_t count, const Term& term) {
        int64_t i = 0;
        for (; i + kSumLanes <= count; i += kSumLanes)
            for (int lane = 0; lane < kSumLanes; ++lane) lanes_[lane] += term(i + lane);
        for (; i < count; ++i) lanes_[0] += term(i);
    }

    double total() const {
        double total = 0;
        for (double lane : lanes_) total += lane;
        return total;
    }

  private:
    static constexpr int kSumLanes = 16;
    double lanes_[kSumLanes] = {};
};

// result = the sum of the blocks' partial sums, [blocks, columns].
template <class Element>
inline void add_partial_sums(const double* partial_sums, int64_t blocks, int64_t columns,
                             Element* result) {
    constexpr int64_t kColumnsAtOnce = 1024;
    for (int64_t column = 0; column < columns; column += kColumnsAtOnce) {
        const int64_t count = std::min(kColumnsAtOnce, columns - column);
        double totals[kColumnsAtOnce] = {};
        for (int64_t block = 0; block < blocks; ++block) {
            const double* sums = partial_sums + block * columns + column;
            for (int64_t i = 0; i < count; ++i) totals[i] += sums[i];
        }
        for (int64_t i = 0; i < count; ++i)
            from_float(static_cast<float>(totals[i]), result[column + i]);
    }
}

}  // namespace aefast::AEFAST_ISA
