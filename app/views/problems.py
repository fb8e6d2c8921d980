"""problems."""

import streamlit as st

st.header("problems")
