"""rollout."""

import streamlit as st

st.header("rollout")
