#!/usr/bin/env python3
"""Writes the golden files next to this script. Needs NumPy, PyTorch and safetensors.

Every array holds 0, 1, 2, ... in its own dtype (booleans: odd numbers are true), so a test knows
what to expect from the name alone: `DTYPE_ORDER_SHAPE.npy`, for example `float32_F_2x3.npy`.
"""

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).resolve().parent


def counting(dtype, shape):
    values = np.arange(int(np.prod(shape)))
    if np.dtype(dtype) == np.bool_:
        values = values % 2
    return values.astype(dtype).reshape(shape)


def write_npy():
    dtypes = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]
    for dtype in dtypes:
        np.save(FOLDER / f"{dtype}_C_2x3.npy", counting(dtype, (2, 3)))
        np.save(FOLDER / f"{dtype}_F_2x3.npy", np.asfortranarray(counting(dtype, (2, 3))))
        big = np.dtype(dtype).newbyteorder(">")
        np.save(FOLDER / f"{dtype}_B_2x3.npy", counting(dtype, (2, 3)).astype(big))
    for shape in [(), (3,), (0,), (2, 3, 4), (2, 1, 3, 2), (2, 0, 3)]:
        name = "x".join(map(str, shape)) or "scalar"
        np.save(FOLDER / f"float64_C_{name}.npy", counting("float64", shape))
        fortran = np.array(counting("float64", shape), order="F")
        np.save(FOLDER / f"float64_F_{name}.npy", fortran)
    for version in [(2, 0), (3, 0)]:
        with open(FOLDER / f"version{version[0]}_2x3.npy", "wb") as file:
            np.lib.format.write_array(file, counting("float64", (2, 3)), version=version)
    refused = {
        "complex": np.ones(2, np.complex128), "text": np.array(["ab"]), "bytes": np.array([b"ab"]),
        "object": np.array([{}], dtype=object), "uint32": np.ones(2, np.uint32),
        "structured": np.zeros(2, dtype=[("a", "<f4"), ("b", "<i4")]),
        "date": np.array(["2020-01-01"], dtype="datetime64[D]"),
    }
    for name, values in refused.items():
        np.save(FOLDER / f"refused_{name}.npy", values)


def write_npz():
    np.savez(FOLDER / "one.npz", data=counting("float32", (2, 3)))
    np.savez_compressed(
        FOLDER / "several.npz", x=counting("float64", (50, 20)), y=counting("int64", (4,)),
        empty=counting("float64", (0, 2)))


def torch_tensors():
    """Name, as C++ knows it, and tensor of each dtype."""
    names = {
        "Half": torch.float16, "BFloat16": torch.bfloat16, "Float": torch.float32,
        "Double": torch.float64, "Char": torch.int8, "Short": torch.int16, "Int": torch.int32,
        "Long": torch.int64, "Byte": torch.uint8, "Bool": torch.bool,
    }
    values = torch.arange(6).reshape(2, 3)
    return {name: (values % 2 if dtype == torch.bool else values).to(dtype)
            for name, dtype in names.items()}


def write_safetensors():
    tensors = {**torch_tensors(), "empty": torch.zeros(0, 3)}
    save_file(tensors, FOLDER / "reference.safetensors", metadata={"made": "by reference"})


def write_torch():
    folder = FOLDER
    for name, values in torch_tensors().items():
        torch.save(values, folder / f"torch_{name}.pt")
    values = torch.arange(6.0).reshape(2, 3)
    torch.save(values.t(), folder / "torch_transposed.pt")
    torch.save(torch.arange(12.0).reshape(4, 3)[1:3], folder / "torch_slice.pt")
    torch.save(torch.tensor(5.0).expand(2, 3), folder / "torch_expanded.pt")
    torch.save(torch.nn.Parameter(values), folder / "torch_parameter.pt")
    torch.save(torch.zeros(0, 3), folder / "torch_empty.pt")
    torch.save(torch.tensor(7.0), folder / "torch_scalar.pt")
    torch.save(values, folder / "torch_protocol4.pt", pickle_protocol=4)
    torch.save(values, folder / "refused_legacy.pt", _use_new_zipfile_serialization=False)
    module = torch.nn.Linear(2, 1)
    torch.save(module.state_dict(), folder / "refused_state_dict.pt")
    torch.save(module, folder / "refused_module.pt")
    torch.save([values, values], folder / "refused_list.pt")
    torch.save({"a": values}, folder / "refused_dictionary.pt")
    torch.save(1.5, folder / "refused_number.pt")
    torch.save(torch.ones(2, dtype=torch.complex64), folder / "refused_complex.pt")
    torch.save(values.to_sparse(), folder / "refused_sparse.pt")
    torch.jit.script(torch.nn.Linear(2, 1)).save(str(folder / "refused_torchscript.pt"))


def write_idx():
    codes = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
    for code, dtype in codes.items():
        content = struct.pack(">BBBBII", 0, 0, code, 2, 2, 3) + counting(dtype, (2, 3)).tobytes()
        (FOLDER / f"type{code:02x}.idx").write_bytes(content)
    image = struct.pack(">BBBBIII", 0, 0, 8, 3, 4, 5, 6) + counting("u1", (4, 5, 6)).tobytes()
    (FOLDER / "images-idx3-ubyte").write_bytes(image)
    with open(FOLDER / "images-idx3-ubyte.gz", "wb") as raw:
        with gzip.GzipFile("images-idx3-ubyte", "wb", fileobj=raw, mtime=0) as file:
            file.write(image)


if __name__ == "__main__":
    torch.manual_seed(0)
    write_npy()
    write_npz()
    write_safetensors()
    write_torch()
    write_idx()
