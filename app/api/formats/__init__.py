"""A job's result as people and pipelines read it: Markdown, a page, JUnit, OpenMetrics."""
