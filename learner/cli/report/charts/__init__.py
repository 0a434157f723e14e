"""Charts of a run as inline SVG: each module draws one subject, from the recorded metrics."""
