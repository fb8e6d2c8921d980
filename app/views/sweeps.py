"""sweeps."""

import streamlit as st

st.header("sweeps")
