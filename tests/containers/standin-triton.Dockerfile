# Stands in for NVIDIA's Triton image, which only its own registry has: the same server, from the wheel that ./launch.sh
# uses where there is no container, in the same place. Its binaries look for their libraries in /nvidia_pytriton.libs.
ARG PYTHON_BASE
FROM ${PYTHON_BASE}
COPY pytriton/tritonserver /opt/tritonserver
COPY nvidia_pytriton.libs /nvidia_pytriton.libs
ENV PATH=/opt/tritonserver/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
