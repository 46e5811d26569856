// A tensor as Python passes it: a tuple of numbers, read into a structure.
//
// Tuples, because Python makes one in a tenth of the time of an object of ours; structures, because
// of many numbers in a row two can be swapped and nobody notices. aefast/ops/shared/cpp.py makes
// them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "gemm/gemm.h"

namespace aefast {

// A matrix of any layout. Strides are in elements and may be 0.
struct Matrix {
    uintptr_t address;
    int64_t rows, columns, row_stride, column_stride;

    MatrixView view() const {
        return {reinterpret_cast<const float*>(address), rows, columns, row_stride, column_stride};
    }

    // The address of the first element of a matrix whose rows are contiguous.
    template <class Element>
    Element* by_rows(const char* name) const {
        if (columns > 1 && column_stride != 1) throw layout_error(name, "the elements of a row");
        return reinterpret_cast<Element*>(address);
    }

    // The address of the first element of a contiguous matrix.
    template <class Element>
    Element* dense(const char* name) const {
        if (rows > 1 && row_stride != columns) throw layout_error(name, "rows");
        return by_rows<Element>(name);
    }

  private:
    static std::invalid_argument layout_error(const char* name, const char* what) {
        return std::invalid_argument(std::string(name) + ": " + what + " must lie side by side");
    }
};

// Several samples of the same rows, the elements of a row side by side. A stride is 0 for what all
// samples or rows share.
struct Samples {
    uintptr_t address;
    int64_t rows;  // of a sample
    int64_t sample_stride, row_stride;
};

// Which random numbers a call draws: aefast/random.py defines them.
struct RandomStream {
    uint64_t seed;
    int64_t row_offset;
    uint32_t step;
};

inline void check_shape(const char* name, const Matrix& matrix, int64_t rows, int64_t columns) {
    if (matrix.rows == rows && matrix.columns == columns) return;
    const auto shape = [](int64_t m, int64_t n) {
        return "[" + std::to_string(m) + ", " + std::to_string(n) + "]";
    };
    throw std::invalid_argument(std::string(name) + " is " + shape(matrix.rows, matrix.columns) +
                                "; it takes " + shape(rows, columns));
}

inline void check_columns(const char* name, const Matrix& matrix, int64_t columns) {
    check_shape(name, matrix, matrix.rows, columns);
}

// Sets the numbers to those of a tuple of as many integers. False, for pybind11 to say which types
// the function takes, where it is something else.
template <class... Integers>
bool read_tuple(pybind11::handle tuple, Integers&... numbers) {
    if (!PyTuple_CheckExact(tuple.ptr()) || PyTuple_GET_SIZE(tuple.ptr()) != sizeof...(numbers))
        return false;
    Py_ssize_t position = 0;
    const auto read = [&](auto& number) {
        PyObject* item = PyTuple_GET_ITEM(tuple.ptr(), position++);
        if (!PyLong_Check(item)) return false;
        using Integer = std::remove_reference_t<decltype(number)>;
        if constexpr (std::is_signed_v<Integer>)
            number = PyLong_AsLongLong(item);
        else
            number = PyLong_AsUnsignedLongLong(item);
        if (!PyErr_Occurred()) return true;
        PyErr_Clear();
        return false;
    };
    return (read(numbers) && ...);
}

}  // namespace aefast

namespace pybind11::detail {

template <>
struct type_caster<aefast::Matrix> {
    PYBIND11_TYPE_CASTER(aefast::Matrix, const_name("Matrix"));
    bool load(handle source, bool) {
        return aefast::read_tuple(source, value.address, value.rows, value.columns,
                                  value.row_stride, value.column_stride);
    }
};

template <>
struct type_caster<aefast::Samples> {
    PYBIND11_TYPE_CASTER(aefast::Samples, const_name("Samples"));
    bool load(handle source, bool) {
        return aefast::read_tuple(source, value.address, value.rows, value.sample_stride,
                                  value.row_stride);
    }
};

template <>
struct type_caster<aefast::RandomStream> {
    PYBIND11_TYPE_CASTER(aefast::RandomStream, const_name("RandomStream"));
    bool load(handle source, bool) {
        return aefast::read_tuple(source, value.seed, value.row_offset, value.step);
    }
};

}  // namespace pybind11::detail
