"""diff."""

import streamlit as st

st.header("diff")
