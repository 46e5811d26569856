// A binary matrix: a bit an element.
#pragma once

#include <cstdint>

namespace aefast {

constexpr int64_t kWordBits = 64;

// Column c is bit c % 64 of its row's word c / 64; bits past the last column are 0.
struct BinaryView {
    const uint64_t* words;
    int64_t rows, columns;

    int64_t row_words() const { return (columns + kWordBits - 1) / kWordBits; }
};

}  // namespace aefast
