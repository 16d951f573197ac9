"""The room for CPUs: Relax to TVM's virtual machine plus one LLVM object per kernel."""
