"""What `pyproject.toml` cannot say yet: the C library of the runtime's threads."""

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """The library is C alone: only the platform matters."""
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
        )
    ],
)
