"""The dashboard: Streamlit pages that speak only to the client of forebear_serve."""
