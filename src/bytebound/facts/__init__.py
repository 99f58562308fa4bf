"""Our cited tables and their lookup: devices, links, prices, roadmap, trends, engines, efficiencies, formats."""
