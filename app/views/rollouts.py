"""rollouts."""

import streamlit as st

st.header("rollouts")
