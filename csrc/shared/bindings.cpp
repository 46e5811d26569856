// aefast._C's instruction sets, signals, forks, mapped files, barrier of processes, check of
// numbers in [0, 1], and rate of multiply-adds.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "bindings/binding.h"
#include "shared/isa.h"
#include "shared/mapped_file.h"
#include "shared/multiply_adds.h"
#include "shared/parallel.h"
#include "shared/process_barrier.h"
#include "shared/unit_interval.h"

namespace py = pybind11;

namespace aefast {
namespace {

// Python's handlers, which run on its main thread alone; Ctrl-C's raises KeyboardInterrupt.
bool signal_handlers_raise() {
    py::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
}

void bind_process(py::module_& module) {
    module.def("enter_forked_child", &enter_forked_child);
    module.def("in_signal_handler", &in_signal_handler);
    handle_signals_with(&signal_handlers_raise);
    py::register_exception_translator([](std::exception_ptr thrown) {
        try {
            std::rethrow_exception(thrown);
        } catch (const Interrupted&) {  // Python's exception is raised already
        }
    });
}

InstructionSet instruction_set_named(const std::string& argument) {
    for (auto set : {InstructionSet::baseline, InstructionSet::avx2, InstructionSet::avx512,
                     InstructionSet::amx}) {
        if (argument == name(set)) return set;
    }
    throw std::invalid_argument("instruction set is '" + argument +
                                "'; it takes one of baseline, avx2, avx512, amx");
}

void bind_instruction_sets(py::module_& module) {
    module.def("instruction_set", [] { return name(active_instruction_set()); });
    module.def("detected_features", &detected_features);
    module.def(
        "cap_instruction_set",
        [](const std::string& cap) { cap_instruction_set(instruction_set_named(cap)); },
        py::arg("cap"));
}

void bind_barrier(py::module_& module) {
    module.def(
        "wait_at_barrier",
        [](uintptr_t counts, int64_t rank, int64_t ranks, int64_t number, double seconds) {
            if (rank < 0 || rank >= ranks) throw std::invalid_argument("rank is none of the ranks");
            return wait_at_barrier(pointer<int64_t*>(counts), rank, ranks, number, seconds);
        },
        py::arg("counts"), py::arg("rank"), py::arg("ranks"), py::arg("number"), py::arg("seconds"),
        py::call_guard<py::gil_scoped_release>());
}

void bind_mapped_files(py::module_& module) {
    py::class_<MappingGuard>(module, "MappingGuard")
        .def(py::init<uintptr_t, uintptr_t>(), py::arg("first"), py::arg("bytes"))
        .def("watch", &MappingGuard::watch)
        .def("is_cut", &MappingGuard::is_cut);
}

void bind_multiply_adds(py::module_& module) {
    module.def(
        "multiply_adds",
        [](int64_t rounds, int threads) {
            if (rounds < 1 || threads < 1)
                throw std::invalid_argument("rounds and threads must be positive");
            return AEFAST_RUN(multiply_adds, rounds, threads);
        },
        py::arg("rounds"), py::arg("threads"));
}

void bind_unit_interval(py::module_& module) {
    module.def(
        "lie_in_unit_interval",
        [](uintptr_t address, int64_t count) {
            return AEFAST_RUN(lie_in_unit_interval, reinterpret_cast<const float*>(address), count);
        },
        py::arg("address"), py::arg("count"));
}

const Binding process(bind_process), instruction_sets(bind_instruction_sets), barrier(bind_barrier),
    mapped_files(bind_mapped_files), multiply_adds(bind_multiply_adds),
    unit_interval(bind_unit_interval);

}  // namespace
}  // namespace aefast
