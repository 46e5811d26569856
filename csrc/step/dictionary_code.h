// Which latents of a dictionary are active in a batch's rows. Included by dictionary_step.cpp, for
// its instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "gemm/blocking.h"
#include "ops/topk/topk.h"
#include "shared/arena.h"
#include "shared/scratch.h"
#include "step/dictionary_products.h"

namespace aefast::AEFAST_ISA {
namespace {

inline int64_t largest(const int64_t* numbers, int64_t count) {
    int64_t most = numbers[0];
    for (int64_t i = 1; i < count; ++i) most = larger(most, numbers[i]);
    return most;
}

// The latents of each row, their values, and room for the gradients by these, all [rows, width], in
// memory that grows with the width. What a row has less is 0.
class CodeRows {
  public:
    float *values = nullptr, *slopes = nullptr;
    int64_t* indices = nullptr;
    int64_t rows = 0, width = 0;

    void reserve(int64_t for_rows, int64_t for_width) {
        rows = for_rows, width = for_width;
        const auto place = [&](Arena arena) {
            indices = arena.take<int64_t>(size());
            values = arena.take<float>(size());
            slopes = arena.take<float>(size());
            return arena.used();
        };
        const int64_t bytes = place(Arena(nullptr));
        place(Arena(static_cast<char*>(memory_.reserve(bytes))));
    }

    int64_t size() const { return rows * width; }

    // Keeps the first values of each row, as many as `counts` says, and makes the width the most.
    void trim(const int64_t* counts) {
        const int64_t before = width;
        width = larger(1, largest(counts, rows));
        for (int64_t row = 0; row < rows; ++row) {
            std::copy_n(indices + row * before, width, indices + row * width);
            std::copy_n(values + row * before, counts[row], values + row * width);
            std::fill_n(values + row * width + counts[row], width - counts[row], 0.f);
        }
    }

    void release() { memory_.release(); }

  private:
    Scratch memory_;
};

// The order of torch's sorts, the largest first: NaN goes before all numbers.
struct LargerFirst {
    bool operator()(float a, float b) const { return a != a ? b == b : a > b; }
};

// counts [rows]: how many of each row's values are among the `count` largest of all; of equal ones
// those of lower rows. A row's are in descending order. `room` takes as many as there are.
void count_selected(const CodeRows& code, int64_t count, float* room, int64_t* counts) {
    const LargerFirst goes_before;
    std::copy_n(code.values, code.size(), room);
    std::nth_element(room, room + (count - 1), room + code.size(), goes_before);
    const float least = room[count - 1];
    int64_t left = count;
    for (int64_t row = 0; row < code.rows; ++row) {
        const float* values = code.values + row * code.width;
        counts[row] = 0;
        while (counts[row] < code.width && goes_before(values[counts[row]], least)) ++counts[row];
        left -= counts[row];
    }
    for (int64_t row = 0; row < code.rows; ++row) {
        const float* values = code.values + row * code.width;
        for (; left > 0 && counts[row] < code.width; --left) {
            if (goes_before(least, values[counts[row]])) break;
            ++counts[row];
        }
    }
}

// Each row's k largest pre-activations. The arguments are all but the code's.
void encode_topk(TopKEncodeArguments arguments, int64_t k, CodeRows& code) {
    code.reserve(arguments.x.rows, k);
    arguments.k = k;
    arguments.values = code.values;
    arguments.indices = code.indices;
    topk_encode(arguments);
}

// The k rows largest pre-activations of all rows. Each row's largest are found, and more of them
// as long as some row may have more selected.
void encode_batch_topk(const TopKEncodeArguments& arguments, double k, CodeRows& code) {
    // As aefast/ops/topk/batch.py has it.
    constexpr int64_t kFirstWidth = 4;
    const int64_t rows = arguments.x.rows, latents = arguments.weight.rows;
    const int64_t count = larger(1, static_cast<int64_t>(k * static_cast<double>(rows)));
    int64_t width = smaller(latents, kFirstWidth * static_cast<int64_t>(std::ceil(k)));
    while (true) {
        encode_topk(arguments, width, code);
        Arena arena(static_cast<char*>(
            memory.counts.reserve(rows * (sizeof(int64_t) + width * sizeof(float)) + 64)));
        int64_t* counts = arena.take<int64_t>(rows);
        count_selected(code, count, arena.take<float>(code.size()), counts);
        if (width < latents && largest(counts, rows) == width) {
            width = smaller(latents, 2 * width);
            continue;
        }
        code.trim(counts);
        return;
    }
}

// The latents of each row that may be active, whose products are in `products` [rows, latents]:
// those of which may_be_active(product, latent) says so. Their products are the code's values,
// -infinity where a row has less. False where a row has more than an eighth of the latents: then
// products with all of them are quicker.
template <class MayBeActive>
bool select_candidates(const float* products, int64_t rows, int64_t latents, int threads,
                       const MayBeActive& may_be_active, CodeRows& code) {
    auto* counts = static_cast<int64_t*>(memory.counts.reserve(rows * sizeof(int64_t)));
    for_rows(threads, rows, [&](int64_t row) {
        counts[row] = 0;
        for (int64_t i = 0; i < latents; ++i)
            counts[row] += may_be_active(products[row * latents + i], i);
    });
    const int64_t width = larger(1, largest(counts, rows));
    if (width > latents / 8) return false;
    code.reserve(rows, width);
    for_rows(threads, rows, [&](int64_t row) {
        float* values = code.values + row * width;
        int64_t* indices = code.indices + row * width;
        std::fill_n(values, width, -std::numeric_limits<float>::infinity());
        std::fill_n(indices, width, 0);
        int64_t filled = 0;
        for (int64_t i = 0; i < latents; ++i) {
            const float product = products[row * latents + i];
            if (!may_be_active(product, i)) continue;
            values[filled] = product;
            indices[filled++] = i;
        }
    });
    return true;
}

}  // namespace
}  // namespace aefast::AEFAST_ISA
