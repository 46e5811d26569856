"""Launches Triton kernels: as ready-made cubins, or compiled by Triton.

An op's ``triton.py`` plans and launches; it imports without triton installed. The kernels are in
its ``triton_kernels.py``, which imports triton, and is itself imported when one must be compiled.
"""

import ast
import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch

from aefast import cubins, torch_private
from aefast.backend import BackendUnavailableError
from aefast.ops.shared import triton_compiled

# The number of each activation in the kernels. Product kernels are compiled for each activation;
# others branch on its number, so that one cubin serves all.
ACTIVATIONS = {
    "identity": 0,
    "relu": 1,
    "leaky_relu": 2,
    "sigmoid": 3,
    "tanh": 4,
    "softplus": 5,
    "gelu": 6,
    "silu": 7,
}

# The names that triton gives the dtypes in a kernel's signature.
TYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
DTYPES = {name: dtype for dtype, name in TYPE_NAMES.items()} | {
    "i32": torch.int32,
    "i64": torch.int64,
}

DIMENSIONS = ("sample", "row", "column")  # of tensors that kernels take with any strides


class Descriptor(NamedTuple):
    """A matrix with contiguous rows that a kernel reads in blocks by tensor memory accelerator."""

    tensor: torch.Tensor
    block: list[int]  # rows and columns of a block
    round_to_tf32: bool  # whether the hardware rounds float32 to TF32 while reading


@dataclass(frozen=True)
class Variant:
    """One compilation of a kernel: its source, types, constants and number of warps.

    The same record launches the kernel and compiles it ahead of time, so the tests compile what
    runs. Kernels are specialized on nothing else: integers have annotated types and, like pointers,
    are not specialized by value or alignment.
    """

    kernel: str  # the path under aefast.ops: "variational.triton_kernels.scaled_noise_kernel"
    pointer_types: dict[str, str]
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 1
    tensor_cores: bool = field(default=False, kw_only=True)

    @cached_property
    def name(self) -> str:
        types = " ".join(dict.fromkeys(self.pointer_types.values()))
        constants = " ".join(f"{name}={value}" for name, value in self.constants.items())
        function = self.kernel.rpartition(".")[2]
        return f"{function} {types} {constants} warps={self.warps} stages={self.stages}"

    @property
    def function(self) -> Any:
        """The kernel's Triton function."""
        return _jit_function(self.kernel)

    @property
    def signature(self) -> dict[str, str]:
        """The type of every parameter, as triton spells it."""
        types = {}
        for parameter in self.function.params:
            if parameter.is_constexpr:
                types[parameter.name] = "constexpr"
            else:
                types[parameter.name] = (
                    self.pointer_types.get(parameter.name) or parameter.annotation_type
                )
        return types

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of a launch's arguments in the kernel's order: its parameters without the
        constants."""
        module, _, function = self.kernel.rpartition(".")
        names = _parameters(module)[function]
        return tuple(name for name in names if name not in self.constants)

    @cached_property
    def _values_in_order(self) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
        return itemgetter(*self.parameters)

    def launch(self, programs: int, **arguments: Any) -> None:
        """Launch the kernel with its arguments by name. Tensors have the names of its pointers.

        Raises:
            TypeError: an argument is missing, or the kernel has no parameter of that name.
        """
        self.launch_in_order(programs, self.in_order(arguments))

    def in_order(self, arguments: dict[str, Any]) -> tuple[Any, ...]:
        """A launch's arguments in the kernel's order.

        Raises:
            TypeError: an argument is missing, or the kernel has no parameter of that name.
        """
        try:
            values = self._values_in_order(arguments)
        except KeyError:
            raise self._wrong_names(arguments) from None
        if len(values) != len(arguments):
            raise self._wrong_names(arguments)
        return values

    def _wrong_names(self, arguments: Iterable[str]) -> TypeError:
        function = self.kernel.rpartition(".")[2]
        missing = [name for name in self.parameters if name not in arguments]
        unknown = [name for name in arguments if name not in self.parameters]
        return TypeError(f"a launch of {function} lacks {missing} and has unknown {unknown}")

    def launch_in_order(self, programs: int, arguments: tuple[Any, ...]) -> None:
        """Launch the ready-made cubin if there is one for the device; else Triton compiles one."""
        device = getattr(arguments[0], "tensor", arguments[0]).device
        if device.type == "cuda" and (
            cubins.launch(self.name, device, programs, arguments)
            or triton_compiled.launch(self, device, programs, arguments)
        ):
            return
        self.launch_jit(programs, arguments)

    @cached_property
    def _pointer_dtypes(self) -> dict[str, torch.dtype]:
        """The dtype of each argument that is a tensor."""
        return {
            name: DTYPES[kind.removeprefix("tensordesc<").strip("*").partition("[")[0]]
            for name, kind in self.pointer_types.items()
        }

    def _check_dtypes(self, arguments: Sequence[Any]) -> None:
        """Check tensors' dtypes: a kernel takes them for those of its signature.

        Raises:
            TypeError: a tensor has another dtype.
        """
        named = dict(zip(self.parameters, arguments, strict=True))
        for name, dtype in self._pointer_dtypes.items():
            argument = named[name]
            tensor = argument.tensor if isinstance(argument, Descriptor) else argument
            if tensor.dtype is not dtype:
                raise TypeError(
                    f"{name} of {self.function.__name__} has dtype {tensor.dtype}; it takes {dtype}"
                )

    def launch_jit(self, programs: int, arguments: tuple[Any, ...]) -> None:
        """Launch by Triton, which compiles at the first call: in the interpreter, and on a GPU
        without the extension.

        Raises:
            TypeError: a tensor's dtype is not the signature's.
        """
        self._check_dtypes(arguments)
        self.function[(programs,)](
            *jit_arguments(arguments),
            **jit_constants(self.constants),
            num_warps=self.warps,
            num_stages=self.stages,
        )


class PlannedLaunch(NamedTuple):
    """A launch that is planned: its kernel, programs and arguments by name."""

    variant: Variant
    programs: int
    arguments: dict[str, Any]

    def run(self) -> None:
        self.variant.launch(self.programs, **self.arguments)


def launch_in_turn(
    launches: Sequence[PlannedLaunch], device: torch.device, first_step: int, rounds: int
) -> None:
    """Launch kernels one after the other, so many rounds: each is a step, numbered from
    ``first_step`` on.

    On a GPU there is no Python between the launches. Each kernel must have been launched before.
    """
    kernels = []
    if device.type == "cuda":
        kernels = [triton_compiled.loaded(launch.variant, device) for launch in launches]
    if not kernels or None in kernels:
        for step in range(first_step, first_step + rounds * len(launches)):
            variant, programs, arguments = launches[(step - first_step) % len(launches)]
            variant.launch(programs, **arguments | {"step": step})
        return
    in_turn = [
        (
            kernel,
            launch.programs,
            launch.variant.in_order(launch.arguments),
            launch.variant.parameters.index("step"),
        )
        for kernel, launch in zip(kernels, launches, strict=True)
    ]
    stream = torch_private.cuda_stream(device.index)
    cubins.extension().launch_in_turn(in_turn, stream, device.index, first_step, rounds)


@cache
def _parameters(module: str) -> dict[str, list[str]]:
    """The parameters of every function in a module of kernels.

    They are read from its source. Importing it would need triton, which ready-made cubins do not.
    """
    source = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    functions = [
        node for node in ast.parse(source.read_bytes()).body if isinstance(node, ast.FunctionDef)
    ]
    return {node.name: [argument.arg for argument in node.args.args] for node in functions}


@cache
def _jit_function(kernel: str) -> Any:
    module, _, function = kernel.rpartition(".")
    try:
        return getattr(importlib.import_module(f"aefast.ops.{module}"), function)
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise BackendUnavailableError(
            f"no ready-made cubin serves {function} here, and triton, which would compile it, is "
            "not installed: pip install triton"
        ) from error


def jit_arguments(arguments: Sequence[Any]) -> list[Any]:
    """A launch's arguments for Triton's own launcher."""
    return [
        _tensor_descriptor(argument) if isinstance(argument, Descriptor) else argument
        for argument in arguments
    ]


def _tensor_descriptor(descriptor: Descriptor) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    tensor = descriptor.tensor
    rounds = descriptor.round_to_tf32 and descriptors_round()
    rounding = {"round_f32_to_tf32": True} if rounds else {}
    shape, strides = list(tensor.shape), list(tensor.stride())
    return TensorDescriptor(tensor, shape, strides, descriptor.block, **rounding)


def jit_constants(constants: dict[str, Any]) -> dict[str, Any]:
    """A launch's constants. If Triton's descriptors cannot round to TF32, the kernel does."""
    if "ROUND" in constants and not descriptors_round():
        return constants | {"ROUND": True}
    return constants


@cache
def descriptors_round() -> bool:
    """Whether Triton's descriptors can round float32 to TF32, as the extension's can: since 3.7."""
    try:
        major, minor = importlib.metadata.version("triton").split(".")[:2]
    except importlib.metadata.PackageNotFoundError:
        return True  # a development build, which has another name
    return (int(major), int(minor)) >= (3, 7)


def cdiv(dividend: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-dividend // divisor)


_HERE = contextlib.nullcontext()


def device_of(tensor: torch.Tensor) -> contextlib.AbstractContextManager[object]:
    """A context in which the tensor's device is current: Triton launches on the current device."""
    if tensor.is_cuda and tensor.get_device() != torch.cuda.current_device():
        return torch.cuda.device(tensor.device)
    return _HERE


def strides_of(**tensors: torch.Tensor) -> dict[str, int]:
    """The arguments ``NAME_row_stride`` and ``NAME_column_stride`` of a launch for each matrix, and
    before them ``NAME_sample_stride`` for a tensor of three dimensions."""
    return {
        f"{name}_{dimension}_stride": stride
        for name, tensor in tensors.items()
        for dimension, stride in zip(DIMENSIONS[-tensor.dim() :], tensor.stride(), strict=True)
    }


def seed_arguments(seed: int | torch.Tensor, device: torch.device) -> dict[str, int]:
    """The arguments of a kernel's ``load_seed``. A seed in the device's memory is passed by its
    address, without waiting for its value."""
    if not isinstance(seed, torch.Tensor):
        return {"seed": seed, "seed_address": 0}
    if device.type == "cuda" and seed.device == device:
        return {"seed": 0, "seed_address": seed.data_ptr()}
    return {"seed": int(seed.item()), "seed_address": 0}
