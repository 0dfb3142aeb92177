"""Review application: radiologists check, edit and sign drafted reports in the browser."""
