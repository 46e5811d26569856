// A row that keeps a norm of 1: for the kernels, which have it in cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "shared/isa.h"
#include "step/unit_rows.h"

namespace aefast::AEFAST_ISA {

// Twice how far from 1 a unit norm is once its row's elements are rounded to float32.
constexpr double kUnitRounding = 1.0 / (1 << 23);

// A sum of products over a row in float64. Its lanes are added in a tree, for a short row waits for
// them.
class RowSum {
  public:
    void add(int lane, float left, float right) { lanes_[lane] += double(left) * right; }

    double total() const {
        double sums[kLanes / 2];
        for (int i = 0; i < kLanes / 2; ++i) sums[i] = lanes_[i] + lanes_[i + kLanes / 2];
        return ((sums[0] + sums[4]) + (sums[2] + sums[6])) +
               ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    }

    static constexpr int kLanes = 16;

  private:
    double lanes_[kLanes] = {};
};

template <class Add>
void for_lanes(int64_t count, const Add& add) {
    int64_t i = 0;
    for (; i + RowSum::kLanes <= count; i += RowSum::kLanes)
        for (int lane = 0; lane < RowSum::kLanes; ++lane) add(lane, i + lane);
    for (; i < count; ++i) add(0, i);
}

inline double squared_norm(const float* row, int64_t columns) {
    RowSum square;
    for_lanes(columns, [&](int lane, int64_t i) { square.add(lane, row[i], row[i]); });
    return square.total();
}

// What brings a row to unit norm.
inline double unit_factor(const float* row, int64_t columns) {
    const double norm = std::sqrt(squared_norm(row, columns));
    return 1 / (norm < kSmallestNorm ? kSmallestNorm : norm);
}

inline void scale(float* row, double factor, int64_t columns) {
    for (int64_t i = 0; i < columns; ++i) row[i] = static_cast<float>(factor * row[i]);
}

// What times the row is the part of its gradient that would change its norm.
inline double factor_along(const float* gradient, const float* row, int64_t columns) {
    constexpr double kSmallest = kSmallestNorm * kSmallestNorm;
    RowSum square, product;
    for_lanes(columns, [&](int lane, int64_t i) {
        square.add(lane, row[i], row[i]);
        product.add(lane, gradient[i], row[i]);
    });
    return product.total() / std::max(square.total(), kSmallest);
}

// A gradient's element without that part.
inline float projected(float gradient, double along, float element) {
    return static_cast<float>(gradient - along * element);
}

}  // namespace aefast::AEFAST_ISA
