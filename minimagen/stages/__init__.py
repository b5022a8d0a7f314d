"""The links of the cascade."""
