// A Gaussian code: its sample mean + e^(log_var / 2) noise, and its divergence from N(0, I).
#include "ops/variational/variational.h"

#include <algorithm>
#include <cmath>

#include "shared/activation.h"
#include "shared/box_muller.h"
#include "shared/element.h"
#include "shared/parallel.h"
#include "shared/philox.h"
#include "shared/row_sums.h"

namespace aefast::AEFAST_ISA {
namespace {

// float32 copies of this many elements stay in the first-level cache.
constexpr int64_t kPiece = 1024;

// Loops over a piece go on to a whole number of the widest vectors: the compiler contracts products
// and sums in the elements that are left over in other places than in the vectors, so that a row's
// bits would depend on where in a piece it lies.
constexpr int64_t kLanes = 16;
static_assert(kPiece % kLanes == 0);

constexpr int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

template <class Element>
const Element* row_of(const SampleView& x, int64_t row) {
    const int64_t offset = row / x.rows * x.sample_stride + row % x.rows * x.row_stride;
    return static_cast<const Element*>(x.data) + offset;
}

// Calls body(first, last) for blocks of rows, in parallel.
template <class Arguments, class Body>
void for_each_row_block(const Arguments& a, const Body& body) {
    const int64_t elements = elements_per_task(a.rows * a.columns, a.threads);
    const int64_t size = std::max<int64_t>(elements / a.columns, 1);
    parallel_for(a.threads, (a.rows + size - 1) / size,
                 [&](int64_t task) { body(task * size, std::min((task + 1) * size, a.rows)); });
}

// Some columns of a row, as many as a vector of counters draws, or fewer at the row's end.
template <class Element>
struct Segment {
    const Element* operand;
    const Element* log_var;
    Element* output;
    int64_t count;
};

template <class Element>
Segment<Element> segment_at(const ScaledNoiseArguments& a, int64_t row, int64_t column) {
    return {row_of<Element>(a.operand, row) + column, row_of<Element>(a.log_var, row) + column,
            static_cast<Element*>(a.output) + row * a.columns + column,
            std::min<int64_t>(kVectorWords, a.columns - column)};
}

// Calls copy(count). A whole segment's count, which the compiler knows, saves a call of memcpy each
// time: 0.9 ns an element instead of 1.2.
template <class Copy>
void with_known_count(int64_t count, const Copy& copy) {
    if (count == kVectorWords) return copy(kVectorWords);
    copy(count);
}

// The segments that are drawn for in one go, of one row or of several: narrow codes keep the
// multipliers as busy as wide ones.
struct Tile {
    PhiloxCounters<kUnrolledVectors> counters = {};
    alignas(64) float operand[kUnrolledWords] = {};
    alignas(64) float log_var[kUnrolledWords] = {};
    alignas(64) float result[kUnrolledWords];

    template <class Element>
    void load(int v, const Segment<Element>& segment) {
        with_known_count(segment.count, [&](int64_t count) {
            AEFAST_ISA::load(segment.operand, operand + v * kVectorWords, count);
            AEFAST_ISA::load(segment.log_var, log_var + v * kVectorWords, count);
        });
    }

    template <class Element>
    void store(int v, const Segment<Element>& segment) const {
        with_known_count(segment.count, [&](int64_t count) {
            AEFAST_ISA::store(result + v * kVectorWords, segment.output, count);
        });
    }

    void draw(NoiseUse use, float scale, uint64_t seed) {
        alignas(64) uint32_t words[kUnrolledWords];
        alignas(64) float noise[kUnrolledWords];
        counters.words(seed, words);
        normals<kUnrolledWords>(words, noise);
        for (int64_t i = 0; i < kUnrolledWords; ++i) noise[i] *= scale * exp(0.5f * log_var[i]);
        if (use == NoiseUse::add)
            for (int64_t i = 0; i < kUnrolledWords; ++i) result[i] = operand[i] + noise[i];
        else
            for (int64_t i = 0; i < kUnrolledWords; ++i) result[i] = operand[i] * noise[i];
    }
};

template <class Element>
void scaled_noise_as(NoiseUse use, const ScaledNoiseArguments& a) {
    const int64_t segments_in_row = (a.columns + kVectorWords - 1) / kVectorWords;
    const int64_t segments = a.rows * segments_in_row;
    const int64_t size = elements_per_task(segments * kVectorWords, a.threads) / kVectorWords;
    parallel_for(a.threads, (segments + size - 1) / size, [&](int64_t task) {
        Tile tile;
        Segment<Element> drawn[kUnrolledVectors];
        const int64_t first = task * size, last = std::min(first + size, segments);
        int64_t row = first / segments_in_row;
        int64_t column = first % segments_in_row * kVectorWords;
        for (int64_t segment = first; segment < last; segment += kUnrolledVectors) {
            const int count = static_cast<int>(std::min<int64_t>(kUnrolledVectors, last - segment));
            for (int v = 0; v < count; ++v) {
                drawn[v] = segment_at<Element>(a, row, column);
                tile.load(v, drawn[v]);
                tile.counters.set(v, static_cast<uint64_t>(a.row_offset + row),
                                  static_cast<uint32_t>(column / 4), a.step);
                column += kVectorWords;
                if (column >= a.columns) ++row, column = 0;
            }
            tile.draw(use, a.scale, a.seed);
            for (int v = 0; v < count; ++v) tile.store(v, drawn[v]);
        }
    });
}

// Some columns of some rows, as float32, [rows, columns].
template <class Element>
void load_piece(const SampleView& x, int64_t row, int64_t rows, int64_t column, int64_t columns,
                float* piece) {
    for (int64_t r = 0; r < rows;) {
        // Rows that follow one another in memory are one segment.
        const bool adjacent = x.row_stride == columns;
        const int64_t run = adjacent ? std::min(rows - r, x.rows - (row + r) % x.rows) : 1;
        load(row_of<Element>(x, row + r) + column, piece + r * columns, run * columns);
        r += run;
    }
}

// Calls body(row, rows, column, columns, mean, log_var) for pieces of the rows in [first, last):
// whole rows, or a part of one.
template <class Element, class Arguments, class Body>
void for_each_piece(const Arguments& a, int64_t first, int64_t last, const Body& body) {
    alignas(64) float mean[kPiece] = {}, log_var[kPiece] = {};
    const int64_t rows_at_once = std::max<int64_t>(kPiece / a.columns, 1);
    for (int64_t row = first; row < last; row += rows_at_once) {
        const int64_t rows = std::min(rows_at_once, last - row);
        for (int64_t column = 0; column < a.columns; column += kPiece) {
            if (interrupted_at(column)) return;
            const int64_t columns = std::min(kPiece, a.columns - column);
            load_piece<Element>(a.mean, row, rows, column, columns, mean);
            load_piece<Element>(a.log_var, row, rows, column, columns, log_var);
            body(row, rows, column, columns, mean, log_var);
        }
    }
}

template <class Element>
void gaussian_kl_as(const GaussianKLArguments& a) {
    auto* divergence = static_cast<Element*>(a.divergence);
    for_each_row_block(a, [&](int64_t first, int64_t last) {
        double total = 0;
        for_each_piece<Element>(
            a, first, last,
            [&](int64_t row, int64_t rows, int64_t column, int64_t columns, float* mean,
                const float* log_var) {
                for (int64_t i = 0; i < padded(rows * columns); ++i)
                    mean[i] = mean[i] * mean[i] + exp_remainder(log_var[i]);
                for (int64_t r = 0; r < rows; ++r) {
                    Sum sum;
                    sum.add(columns, [&](int64_t i) { return mean[r * columns + i]; });
                    total = sum.total() + (column ? total : 0);
                    from_float(static_cast<float>(0.5 * total), divergence[row + r]);
                }
            });
    });
}

template <class Element>
void gaussian_kl_backward_as(const GaussianKLBackwardArguments& a) {
    const auto* grad = static_cast<const Element*>(a.grad);
    auto* grad_mean = static_cast<Element*>(a.grad_mean);
    auto* grad_log_var = static_cast<Element*>(a.grad_log_var);
    for_each_row_block(a, [&](int64_t first, int64_t last) {
        for_each_piece<Element>(a, first, last,
                                [&](int64_t row, int64_t rows, int64_t column, int64_t columns,
                                    float* mean, float* log_var) {
                                    for (int64_t i = 0; i < padded(rows * columns); ++i)
                                        log_var[i] = 0.5f * expm1(log_var[i]);
                                    for (int64_t r = 0; r < rows; ++r) {
                                        const float g = to_float(grad[row + r]);
                                        float* row_mean = mean + r * columns;
                                        float* row_log_var = log_var + r * columns;
                                        for (int64_t i = 0; i < columns; ++i) row_mean[i] *= g;
                                        for (int64_t i = 0; i < columns; ++i) row_log_var[i] *= g;
                                    }
                                    const int64_t offset = row * a.columns + column;
                                    store(mean, grad_mean + offset, rows * columns);
                                    store(log_var, grad_log_var + offset, rows * columns);
                                });
    });
}

}  // namespace

void scaled_noise(NoiseUse use, const ScaledNoiseArguments& a) {
    with_element(a.element_type, [&](auto element) { scaled_noise_as<decltype(element)>(use, a); });
}

void gaussian_kl(const GaussianKLArguments& a) {
    with_element(a.element_type, [&](auto element) { gaussian_kl_as<decltype(element)>(a); });
}

void gaussian_kl_backward(const GaussianKLBackwardArguments& a) {
    with_element(a.element_type,
                 [&](auto element) { gaussian_kl_backward_as<decltype(element)>(a); });
}

}  // namespace aefast::AEFAST_ISA
