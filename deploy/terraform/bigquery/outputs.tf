output "env" {
  description = "The platform's settings, as lines for .env: terraform output -raw env >> .env"
  value = join("", [for name, value in {
    ECOMMERSSS_WAREHOUSE                     = "bigquery"
    ECOMMERSSS_BIGQUERY_PROJECT              = var.project
    ECOMMERSSS_BIGQUERY_LOCATION             = var.location
    ECOMMERSSS_BIGQUERY_BILLING_PROJECT      = var.billing_project
    ECOMMERSSS_BIGQUERY_IMPERSONATE          = length(var.impersonators) > 0 ? google_service_account.platform.email : null
    ECOMMERSSS_BIGQUERY_MAXIMUM_BYTES_BILLED = var.maximum_bytes_billed
    ECOMMERSSS_BIGQUERY_DAILY_BYTES          = var.daily_bytes
  } : "${name}=${value}\n" if value != null])
}

output "service_account" {
  description = "E-mail address of the platform's service account."
  value       = google_service_account.platform.email
}
