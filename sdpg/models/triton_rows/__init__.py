"""The head's row-wise work on GPUs: :mod:`~sdpg.models.triton_rows.launch` decides and launches, and
:mod:`~sdpg.models.triton_rows.kernels` are the kernels, which import Triton.
"""
