"""The selection guide: rules as data, read strictly, evaluated in no order."""
