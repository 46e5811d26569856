// What the two GEMM kernels share: cutting a product into blocks for threads, and finishing them.
#pragma once

#include <atomic>
#include <cstdint>
#include <new>

#include "gemm/gemm.h"
#include "shared/parallel.h"

namespace aefast::AEFAST_ISA {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_divide(int64_t value, int64_t divisor) {
    return (value + divisor - 1) / divisor;
}

struct Range {
    int64_t begin;
    int64_t end;
};

// A whole cut into parts that differ by one at most, the larger ones first. begin() takes no
// division, which would show in the time of a tile.
class EvenParts {
  public:
    EvenParts(int64_t total, int64_t parts)
        : parts_(parts), size_(total / parts), larger_parts_(total % parts) {}
    int64_t count() const { return parts_; }
    int64_t begin(int64_t part) const { return part * size_ + smaller(part, larger_parts_); }
    Range operator[](int64_t part) const { return {begin(part), begin(part + 1)}; }

  private:
    int64_t parts_, size_, larger_parts_;
};

// How a kernel likes its blocks.
struct BlockShape {
    int64_t row_unit, column_unit;  // its tiles: no block ends inside one, but for the last
    int64_t most_columns;           // bounds the memory for the packed right operand
    int64_t packing_cost;           // packing a row takes as long as multiplying this many columns
};

// The product of some of the left and right operands' rows: a block of the output.
inline GemmArguments block_of(const GemmArguments& arguments, Range rows, Range columns) {
    const int64_t offset = rows.begin * arguments.output_row_stride + columns.begin;
    GemmArguments block = arguments;
    block.left.data += rows.begin * arguments.left.row_stride;
    block.left.rows = rows.end - rows.begin;
    block.right.data += columns.begin * arguments.right.row_stride;
    block.right.rows = columns.end - columns.begin;
    if (arguments.packed.data != nullptr)
        block.packed.data += columns.begin * arguments.packed.bytes_per_column;
    block.output += offset;
    if (arguments.bias != nullptr) block.bias += columns.begin;
    if (arguments.preactivation != nullptr) block.preactivation += offset;
    return block;
}

// The output as a grid of blocks, a task each. A task packs all that it reads: that one thread
// packs for the others took two more waits for each other and a copy from core to core, which on a
// busy machine cost half of the speed.
class BlockGrid {
  public:
    BlockGrid(const GemmArguments& arguments, const BlockShape& shape)
        : arguments_(arguments),
          shape_(shape),
          threads_(useful_threads()),
          row_tiles_(ceil_divide(arguments.left.rows, shape.row_unit)),
          column_tiles_(ceil_divide(arguments.right.rows, shape.column_unit)),
          row_blocks_(best_row_blocks()),
          column_blocks_(column_blocks(row_blocks_)) {}

    // multiply(block) for every block.
    template <class Multiply>
    void for_each_block(const Multiply& multiply) const {
        const EvenParts row_parts(row_tiles_, row_blocks_);
        const EvenParts column_parts(column_tiles_, column_blocks_);
        std::atomic<bool> out_of_memory{false};
        parallel_for(threads_, row_blocks_ * column_blocks_, [&](int64_t task) {
            const Range rows =
                scaled(row_parts[task / column_blocks_], shape_.row_unit, arguments_.left.rows);
            const Range columns = scaled(column_parts[task % column_blocks_], shape_.column_unit,
                                         arguments_.right.rows);
            try {
                multiply(block_of(arguments_, rows, columns));
            } catch (const std::bad_alloc&) {  // must not leave an OpenMP region
                out_of_memory = true;
            }
        });
        if (out_of_memory) throw std::bad_alloc();
    }

  private:
    double products() const {
        return static_cast<double>(arguments_.left.rows) * arguments_.right.rows *
               arguments_.left.columns;
    }

    // No more threads than have work that is worth starting them for.
    int useful_threads() const {
        const double kProductsPerThread = current_crew ? 1 << 16 : 1 << 18;
        const double useful = products() / kProductsPerThread;
        if (useful >= arguments_.threads) return arguments_.threads;
        return useful < 1 ? 1 : static_cast<int>(useful);
    }

    // A block a thread, or up to four where they stay large enough, so that a thread which the
    // machine holds up leaves some of its share to the others.
    int64_t target_blocks() const {
        constexpr double kProductsPerBlock = 1 << 27;
        const double blocks = products() / kProductsPerBlock / threads_;
        return threads_ * (blocks >= 4 ? 4 : blocks < 1 ? 1 : static_cast<int64_t>(blocks));
    }

    int64_t column_blocks(int64_t row_blocks) const {
        const int64_t needed = ceil_divide(arguments_.right.rows, shape_.most_columns);
        return smaller(column_tiles_, larger(needed, target_blocks() / row_blocks));
    }

    int64_t best_row_blocks() const {
        int64_t best = 1;
        double best_cost = 0;
        for (int64_t blocks = 1; blocks <= smaller(row_tiles_, target_blocks()); ++blocks) {
            const double cost = time_with(blocks);
            if (blocks > 1 && cost >= best_cost) continue;
            best = blocks;
            best_cost = cost;
        }
        return best;
    }

    // In products: the largest block's, as often as a thread takes one.
    double time_with(int64_t row_blocks) const {
        const int64_t columns = column_blocks(row_blocks);
        const double rounds = ceil_divide(row_blocks * columns, threads_);
        const int64_t height = ceil_divide(row_tiles_, row_blocks) * shape_.row_unit;
        const int64_t width = ceil_divide(column_tiles_, columns) * shape_.column_unit;
        return rounds * (height + shape_.packing_cost) * (width + shape_.packing_cost);
    }

    static Range scaled(Range tiles, int64_t unit, int64_t limit) {
        return {tiles.begin * unit, smaller(tiles.end * unit, limit)};
    }

    const GemmArguments& arguments_;
    BlockShape shape_;
    int threads_;
    int64_t row_tiles_, column_tiles_;
    int64_t row_blocks_, column_blocks_;
};

// Products are summed up in the array that may keep them.
inline float* sums_of(const GemmArguments& arguments) {
    return arguments.preactivation != nullptr ? arguments.preactivation : arguments.output;
}

// Turns finished sums of some rows into the output, while they are still in cache.
inline void activate_rows(const GemmArguments& arguments, Range rows) {
    const float* sums = sums_of(arguments);
    if (arguments.activation == Activation::identity && sums == arguments.output) return;
    // Rows that lie together are one array: of short ones the last elements, which fill no vector,
    // took most of the time.
    const bool is_dense = arguments.output_row_stride == arguments.right.rows;
    const int64_t rows_at_once = is_dense ? rows.end - rows.begin : 1;
    for (int64_t row = rows.begin; row < rows.end; row += rows_at_once) {
        const int64_t offset = row * arguments.output_row_stride;
        activate(arguments.activation, sums + offset, arguments.output + offset,
                 rows_at_once * arguments.right.rows);
    }
}

}  // namespace aefast::AEFAST_ISA
