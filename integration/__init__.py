"""Real servers, real DNS, processes killed under load; and the demo."""
