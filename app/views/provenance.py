"""provenance."""

import streamlit as st

st.header("provenance")
