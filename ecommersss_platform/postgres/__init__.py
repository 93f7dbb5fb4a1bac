"""Reading the operational database for the warehouse: SELECTs as typed Arrow batches."""
