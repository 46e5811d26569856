// Noise injection: one pass that reads x, draws, and writes the corrupted copy.
#include "ops/corrupt/corrupt.h"

#include <algorithm>
#include <cstring>

#include "shared/box_muller.h"
#include "shared/parallel.h"
#include "shared/philox.h"

namespace aefast::AEFAST_ISA {
namespace {

// Calls body(row, first_column, last_column) over the whole block, in parallel tasks that hold
// either some whole rows or a part of one row, which starts at a multiple of kUnrolledWords.
template <class Body>
void for_each_segment(const CorruptArguments& a, const Body& body) {
    const int64_t size =
        elements_per_task(a.rows * a.columns, a.threads) / kUnrolledWords * kUnrolledWords;
    if (a.columns > size) {
        const int64_t segments = (a.columns + size - 1) / size;
        parallel_for(a.threads, a.rows * segments, [&](int64_t task) {
            const int64_t first = task % segments * size;
            body(task / segments, first, std::min(first + size, a.columns));
        });
        return;
    }
    const int64_t rows_per_task = size / a.columns;
    parallel_for(a.threads, (a.rows + rows_per_task - 1) / rows_per_task, [&](int64_t task) {
        const int64_t last = std::min((task + 1) * rows_per_task, a.rows);
        for (int64_t row = task * rows_per_task; row < last; ++row) body(row, 0, a.columns);
    });
}

// `columns` columns, by the words drawn for them in one go.
template <int64_t columns, class Element, class Change>
void change_columns(const PhiloxRow& philox, int64_t column, const Element* x, Element* output,
                    const Change& change) {
    alignas(64) uint32_t words[columns];
    philox.words<columns>(static_cast<uint32_t>(column / 4), words);
    change.template apply<columns>(x, words, output);
}

// output = change(x, words), row by row: several vectors of counters at a time, then single ones,
// of which the last may reach past the row.
template <class Element, class Change>
void transform(const CorruptArguments& a, const Change& change) {
    for_each_segment(a, [&](int64_t row, int64_t column, int64_t last) {
        const auto* x = static_cast<const Element*>(a.x) + row * a.row_stride;
        auto* output = static_cast<Element*>(a.output) + row * a.columns;
        const PhiloxRow philox(
            a.seed, static_cast<uint64_t>(a.row_offset) + static_cast<uint64_t>(row), a.step);
        for (; column + kUnrolledWords <= last; column += kUnrolledWords) {
            change_columns<kUnrolledWords>(philox, column, x + column, output + column, change);
        }
        for (; column + kVectorWords <= last; column += kVectorWords) {
            change_columns<kVectorWords>(philox, column, x + column, output + column, change);
        }
        if (column == last) return;
        alignas(64) Element rest[kVectorWords] = {}, changed[kVectorWords];
        std::copy(x + column, x + last, rest);
        change_columns<kVectorWords>(philox, column, rest, changed, change);
        std::copy(changed, changed + (last - column), output + column);
    });
}

// A copy to choose from. Chosen from memory, x would be loaded under the mask of what stays, and
// such a load took two and a half times as long where x is not in the cache.
template <int64_t columns, class Bits>
struct Copy {
    alignas(64) Bits values[columns];
    explicit Copy(const Bits* x) { std::memcpy(values, x, sizeof values); }
};

struct Masking {
    uint32_t threshold;

    template <int64_t columns, class Bits>
    void apply(const Bits* x, const uint32_t* words, Bits* __restrict output) const {
        const Copy<columns, Bits> copy(x);
        for (int64_t i = 0; i < columns; ++i) {
            output[i] = (words[i] >> 8) < threshold ? Bits{0} : copy.values[i];
        }
    }
};

template <class Bits>
struct SaltAndPepper {
    uint32_t low_threshold, touched_threshold;
    Bits low, high;

    template <int64_t columns>
    void apply(const Bits* x, const uint32_t* words, Bits* __restrict output) const {
        const Copy<columns, Bits> copy(x);
        for (int64_t i = 0; i < columns; ++i) {
            const uint32_t uniform = words[i] >> 8;
            const Bits replacement = uniform < low_threshold ? low : high;
            output[i] = uniform < touched_threshold ? replacement : copy.values[i];
        }
    }
};

struct Gaussian {
    float standard_deviation;

    template <int64_t columns>
    void apply(const float* x, const uint32_t* words, float* __restrict output) const {
        alignas(64) float noise[columns];
        normals<columns>(words, noise);
        for (int64_t i = 0; i < columns; ++i) output[i] = x[i] + standard_deviation * noise[i];
    }
};

template <class Bits>
void corrupt_bits(Noise noise, const CorruptArguments& a) {
    if (noise == Noise::masking) return transform<Bits>(a, Masking{a.level_threshold});
    const auto low = static_cast<Bits>(a.low_bits), high = static_cast<Bits>(a.high_bits);
    transform<Bits>(a, SaltAndPepper<Bits>{a.low_threshold, a.level_threshold, low, high});
}

}  // namespace

void corrupt(Noise noise, const CorruptArguments& a) {
    if (noise == Noise::gaussian) return transform<float>(a, Gaussian{a.level});
    if (a.element_size == 4) return corrupt_bits<uint32_t>(noise, a);
    corrupt_bits<uint16_t>(noise, a);
}

}  // namespace aefast::AEFAST_ISA
