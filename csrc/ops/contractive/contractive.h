// The contractive penalty, the squared norm of an encoder's Jacobian: its element-wise halves.
#pragma once

#include <cstdint>

#include "shared/activation.h"
#include "shared/isa.h"

namespace aefast {

// output = act', count elements of it, from what activation_backward() reads.
struct SlopesArguments {
    const float* saved;
    float* output;
    int64_t count;
    Activation activation;
    int threads;
};

// The squared lengths of a weight's rows.
struct RowLengthsArguments {
    const float* weight;
    int64_t weight_row_stride;
    float* squares;
    int64_t rows, columns;
    int threads;
};

// The penalty of one layer, sum_j (act'_j scale_j)^2 square_j: saved is [rows, columns], squares
// and scales [columns], penalty [rows]; scales may be null, where all are 1.
struct LayerPenaltyArguments {
    const float* saved;
    const float* squares;
    const float* scales;
    float* penalty;
    int64_t rows, columns;
    Activation activation;
    int threads;
};

// grad_preactivation = grad_slope act'' + grad_code act', all [rows, columns]; grad_code's rows lie
// grad_code_row_stride elements apart, or it is null. Where grad_slope is null it is that of the
// penalty, 2 grad_penalty act' square scale^2, with scales that may be null. grad_sums is
// [2, columns]: the sums over the rows of grad_preactivation, and of grad_penalty act'^2 scale;
// partial_sums holds as many doubles for each block of kRowsPerPartialSum rows.
struct SlopeBackwardArguments {
    const float* saved;
    const float* grad_code;
    int64_t grad_code_row_stride;
    const float* grad_slope;
    const float* grad_penalty;
    const float* squares;
    const float* scales;
    float* grad_preactivation;
    float* grad_sums;
    double* partial_sums;
    int64_t rows, columns;
    Activation activation;
    int threads;
};

// output = row_slope start slope: output is [samples, rows, columns], row_slope [samples, rows] or
// null, slope [samples, columns]; start's samples lie start_sample_stride elements apart, 0 for one
// that all share.
struct ExpandArguments {
    const float* start;
    int64_t start_sample_stride;
    const float* row_slope;
    const float* slope;
    float* output;
    int64_t samples, rows, columns;
    int threads;
};

// The gradients of expand(). grad_start has start's strides, and may be grad; with accumulate it is
// added to.
// grad_slope_parts is [samples, blocks of kRowsPerPartialSum rows, columns].
struct ExpandBackwardArguments {
    const float* grad;
    const float* start;
    int64_t start_sample_stride;
    const float* row_slope;
    const float* slope;
    float* grad_row_slope;
    float* grad_slope_parts;
    float* grad_start;
    bool accumulate;
    int64_t samples, rows, columns;
    int threads;
};

// totals[row] += the inner product of two rows.
struct DotRowsArguments {
    const float* left;
    int64_t left_row_stride;
    const float* right;
    int64_t right_row_stride;
    float* totals;
    int64_t rows, columns;
    int threads;
};

AEFAST_DECLARE_KERNELS(void slopes(const SlopesArguments&);
                       bool row_lengths(const RowLengthsArguments&);  // whether all are finite
                       void layer_penalty(const LayerPenaltyArguments&);
                       void slope_backward(const SlopeBackwardArguments&);
                       void expand(const ExpandArguments&);
                       void expand_backward(const ExpandBackwardArguments&);
                       void dot_rows(const DotRowsArguments&);)

}  // namespace aefast
