"""tables."""

import streamlit as st

st.header("tables")
