"""What was found, as pages: `streamlit run dashboard/app.py`. Reads through `studies`; torch is never imported here."""
