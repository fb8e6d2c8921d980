"""gating."""

import streamlit as st

st.header("gating")
