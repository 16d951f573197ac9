// Runs one function of a compiled module, without Python:
//
//     runner MODULE.so FUNCTION ARGUMENTS RESULTS
//
// ARGUMENTS and RESULTS are tensor files; `tensor_file.py` describes the format. Leaves with 0, or
// with 1 and one line on standard error. It is built from the headers of tvm_ffi alone and needs
// libtvm_runtime, libtvm_ffi and the C++ library, so that it also fits on a small device.
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

namespace ffi = tvm::ffi;

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensor files are little-endian");

constexpr char kMagic[] = "NXTENS01";
constexpr size_t kMagicSize = sizeof(kMagic) - 1;
// Kernels load whole vectors; the same number as `nexus_runtime.tensors.ALIGNMENT`.
constexpr size_t kAlignment = 64;
// The arguments of `vm_initialization`: kDLCPU, device 0, TVM's pooled allocator.
constexpr int kDevice[] = {1, 0, 2};

struct AlignedMemory {
  void AllocData(DLTensor* tensor) {
    // At least one block: a null pointer for an empty tensor would fail the kernels' checks.
    size_t blocks = ffi::GetDataSize(*tensor) / kAlignment + 1;
    tensor->data = std::aligned_alloc(kAlignment, blocks * kAlignment);
    if (tensor->data == nullptr) throw std::runtime_error("out of memory");
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

void ReadBytes(std::istream& stream, void* data, size_t size) {
  stream.read(static_cast<char*>(data), static_cast<std::streamsize>(size));
  if (!stream) throw std::runtime_error("the arguments end too early");
}

template <typename Number>
Number ReadNumber(std::istream& stream) {
  Number number;
  ReadBytes(stream, &number, sizeof(number));
  return number;
}

template <typename Number>
void WriteNumber(std::ostream& stream, Number number) {
  stream.write(reinterpret_cast<const char*>(&number), sizeof(number));
}

ffi::Tensor ReadTensor(std::istream& stream) {
  DLDataType dtype;
  dtype.code = ReadNumber<uint8_t>(stream);
  dtype.bits = ReadNumber<uint8_t>(stream);
  dtype.lanes = ReadNumber<uint16_t>(stream);
  std::vector<int64_t> shape(ReadNumber<uint32_t>(stream));
  for (int64_t& dim : shape) dim = ReadNumber<int64_t>(stream);
  ffi::Tensor tensor =
      ffi::Tensor::FromNDAlloc(AlignedMemory(), ffi::Shape(shape), dtype, DLDevice{kDLCPU, 0});
  ReadBytes(stream, tensor.data_ptr(), ffi::GetDataSize(tensor));
  return tensor;
}

std::vector<ffi::Tensor> ReadTensors(const char* path) {
  std::ifstream stream(path, std::ios::binary);
  char magic[kMagicSize];
  ReadBytes(stream, magic, kMagicSize);
  if (std::memcmp(magic, kMagic, kMagicSize) != 0) {
    throw std::runtime_error(std::string(path) + " is no tensor file");
  }
  uint64_t count = ReadNumber<uint64_t>(stream);
  std::vector<ffi::Tensor> tensors;
  for (uint64_t i = 0; i < count; ++i) tensors.push_back(ReadTensor(stream));
  return tensors;
}

void WriteTensor(std::ostream& stream, const ffi::Tensor& tensor) {
  if (!tensor.IsContiguous()) throw std::runtime_error("a result is not contiguous");
  WriteNumber<uint8_t>(stream, tensor.dtype().code);
  WriteNumber<uint8_t>(stream, tensor.dtype().bits);
  WriteNumber<uint16_t>(stream, tensor.dtype().lanes);
  WriteNumber<uint32_t>(stream, static_cast<uint32_t>(tensor.ndim()));
  for (int64_t dim : tensor.shape()) WriteNumber<int64_t>(stream, dim);
  const char* data = static_cast<const char*>(tensor.data_ptr()) + tensor.byte_offset();
  stream.write(data, static_cast<std::streamsize>(ffi::GetDataSize(tensor)));
}

void WriteTensors(const char* path, const std::vector<ffi::Tensor>& tensors) {
  std::ofstream stream(path, std::ios::binary);
  stream.write(kMagic, kMagicSize);
  WriteNumber<uint64_t>(stream, tensors.size());
  for (const ffi::Tensor& tensor : tensors) WriteTensor(stream, tensor);
  stream.close();
  if (!stream) throw std::runtime_error(std::string("cannot write ") + path);
}

// A function returns one tensor or a tuple of them.
void Flatten(const ffi::Any& value, std::vector<ffi::Tensor>* tensors) {
  if (auto tensor = value.as<ffi::Tensor>()) {
    tensors->push_back(*tensor);
    return;
  }
  for (const ffi::Any& field : value.cast<ffi::Array<ffi::Any>>()) Flatten(field, tensors);
}

ffi::Function Find(const ffi::Module& module, const char* name) {
  ffi::Optional<ffi::Function> function = module->GetFunction(name, true);
  if (!function) throw std::runtime_error(std::string("the module has no function ") + name);
  return *function;
}

void Run(const char* module, const char* name, const char* arguments, const char* results) {
  ffi::Module library = ffi::Module::LoadFromFile(module);
  ffi::Module machine = Find(library, "vm_load_executable")().cast<ffi::Module>();
  Find(machine, "vm_initialization")(kDevice[0], kDevice[1], kDevice[2]);
  std::vector<ffi::Tensor> given = ReadTensors(arguments);
  std::vector<ffi::AnyView> views(given.begin(), given.end());
  ffi::Any result;
  Find(machine, name).CallPacked(views.data(), static_cast<int32_t>(views.size()), &result);
  std::vector<ffi::Tensor> found;
  Flatten(result, &found);
  WriteTensors(results, found);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s MODULE.so FUNCTION ARGUMENTS RESULTS\n", argv[0]);
    return 1;
  }
  try {
    Run(argv[1], argv[2], argv[3], argv[4]);
  } catch (const ffi::Error& error) {
    // Not what(): it carries the addresses of the whole stack.
    std::fprintf(stderr, "%s: %s\n", error.kind().c_str(), error.message().c_str());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
