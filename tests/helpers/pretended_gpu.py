"""A pretended GPU: tensors on the CPU that say they are on cuda:0, and refuse what a GPU would refuse.

Values are real, so that code which asks for them goes the way that it would go. A storage is on the GPU or it is not;
whatever is computed from tensors there is there too. An operation of tensors on both devices raises, as CUDA would:
one without dimensions may come from the CPU, and so may an index; copies go anywhere.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdpg.models.triton_rows import launch

GPU = torch.device("cuda", 0)
_there: dict[int, StorageWeakRef] = {}
_aten = torch.ops.aten
ANYWHERE = {_aten.copy_, _aten._to_copy, _aten._foreach_copy_}
INDEXED = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_, _aten._unsafe_index}
INTO_FLOAT32 = {_aten.mm.dtype, _aten.mm.dtype_out, _aten.addmm.dtype, _aten.addmm.dtype_out}
"""Products of half types whose sums are float32, which CPUs have not: they are made of the numbers in float32."""


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()


def is_there(tensor: Tensor) -> bool:
    """Says whether a tensor is on the pretended GPU."""
    with torch._C.DisableTorchFunction():
        found = _there.get(_storage(tensor)._cdata)
        return found is not None and not found.expired()


def put(tensor: Tensor, there: bool = True) -> Tensor:
    """Says of a tensor, and of all that shares its memory, whether it is on the pretended GPU."""
    with torch._C.DisableTorchFunction():
        storage = _storage(tensor)
        if there:
            _there[storage._cdata] = StorageWeakRef(storage)
        else:
            _there.pop(storage._cdata, None)
    return tensor


def put_model(model: Any) -> Any:
    """Puts a model's parameters and buffers there."""
    for tensor in (*model.parameters(), *model.buffers()):
        put(tensor.data)
    return model


class _Operations(TorchDispatchMode):
    """Looks at the tensors of each operation, also of those inside autograd."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [is_there(tensor) for tensor in tensors]
        kind = func.overloadpacket
        if any(there) and kind not in ANYWHERE:
            if kind in INDEXED:
                wrong = not there[0]
            else:
                wrong = any(not gpu and tensor.dim() for gpu, tensor in zip(there, tensors, strict=True))
            if wrong:
                shapes = [
                    (tuple(tensor.shape), "cuda:0" if gpu else "cpu")
                    for gpu, tensor in zip(there, tensors, strict=True)
                ]
                raise RuntimeError(
                    f"Expected all tensors to be on the same device, but found at least two devices: {func} {shapes}"
                )
        if func in INTO_FLOAT32:
            args = [arg.float() if isinstance(arg, Tensor) else arg for arg in args if arg != torch.float32]
            kwargs = {name: value for name, value in kwargs.items() if name != "out_dtype"}
            func = kind.out if "out" in kwargs else kind.default
        with torch._C.DisableTorchFunction():
            known = {_storage(tensor)._cdata for tensor in tensors}
        found = func(*args, **kwargs)
        if any(there) and kind is not _aten._local_scalar_dense:
            for tensor in tree_leaves(found):
                # A view is where its memory is; of what is new, all is where the operation was.
                with torch._C.DisableTorchFunction():
                    new = isinstance(tensor, Tensor) and _storage(tensor)._cdata not in known
                if new:
                    put(tensor)
        return found


def _moved(tensor: Tensor, there: bool) -> Tensor:
    return tensor if is_there(tensor) == there else put(tensor.clone(), there)


class _Calls(TorchFunctionMode):
    """Answers what is asked of a device, and makes what is to be made there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return GPU if is_there(args[0]) else func(*args)
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return is_there(args[0])
        if func == Tensor.is_cpu.__get__:  # type: ignore[attr-defined]
            return not is_there(args[0])
        if func in (Tensor.numpy, Tensor.__array__) and is_there(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if func is Tensor.cpu:
            return _moved(args[0], False)
        if func is Tensor.to:
            return self._to(*args, **kwargs)
        if kwargs.get("device") is None:
            return func(*args, **kwargs)
        there = torch.device(kwargs.pop("device")).type == "cuda"
        found = func(*args, **kwargs, device="cpu")
        return found if is_there(found) == there else put(found, there)

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        device, dtype, _, _ = torch._C._nn._parse_to(  # pyright: ignore[reportAttributeAccessIssue]
            *args, **{name: value for name, value in kwargs.items() if name != "copy"}
        )
        found = tensor if dtype is None else tensor.to(dtype)
        if device is None:
            return found
        return _moved(found, device.type == "cuda")


class _Autocast(torch.autocast):
    """That of the CPU, which computes what a GPU's would be asked for."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu", *args, **kwargs)


def _ask_cpu(ask: Any, device_type: str = "cpu") -> Any:
    return ask("cpu")


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Makes tensors inside be where they say they are."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as modes:
        patch.setattr(torch, "autocast", _Autocast)
        for name in ("is_autocast_enabled", "get_autocast_dtype"):
            patch.setattr(torch, name, partial(_ask_cpu, getattr(torch, name)))
        # The plain form of the row work: kernels cannot run here.
        patch.setenv(launch.SWITCH, "0")
        modes.enter_context(_Calls())
        modes.enter_context(_Operations())
        yield
    _there.clear()
