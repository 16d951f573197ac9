"""What `pyproject.toml` cannot say yet: the runtime's threads and calls, which are in C."""

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and every Python from 3.11 on."""

    def get_tag(self) -> tuple[str, str, str]:
        """What is C uses no Python, or its stable interface: only the platform matters."""
        return "py3", "none", super().get_tag()[2]


setup(
    cmdclass={"bdist_wheel": PlatformWheel},
    ext_modules=[
        Extension(
            # Loaded with ctypes: it is no module of Python and needs none of Python's headers.
            "nexus_runtime.threads._pool",
            sources=["nexus_runtime/threads/pool.c"],
            depends=[f"nexus_runtime/threads/{name}.h" for name in ("crew", "place", "word")],
            extra_compile_args=["-std=c11", "-O2", "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"],
            py_limited_api=True,  # for the name: one that every Python looks for
            # Without a C compiler TVM's own threads are used; `nexus-agent doctor` says so.
            optional=True,
        ),
        Extension(
            "nexus_runtime.executors._line",
            sources=["nexus_runtime/executors/line.c"],
            depends=["nexus_runtime/executors/frame.h"],
            extra_compile_args=["-std=c11", "-O2", "-fvisibility=hidden"],
            py_limited_api=True,
            # Without a compiler, or Python's headers, TVM's virtual machine calls the kernels.
            optional=True,
        ),
    ],
)
