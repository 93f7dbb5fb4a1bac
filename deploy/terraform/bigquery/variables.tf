variable "project" {
  description = "Project of the datasets and the service account (ECOMMERSSS_BIGQUERY_PROJECT). Use a separate project: anyone with a basic role (viewer, editor, owner) in it can read every dataset."
  type        = string
}

variable "location" {
  description = "Location of the datasets (ECOMMERSSS_BIGQUERY_LOCATION). It cannot be changed later."
  type        = string
  default     = "asia-southeast2"
}

variable "billing_project" {
  description = "Project that runs and pays for the jobs (ECOMMERSSS_BIGQUERY_BILLING_PROJECT). Null: the project of the datasets."
  type        = string
  default     = null
}

variable "maximum_bytes_billed" {
  description = "Most bytes a statement may bill (ECOMMERSSS_BIGQUERY_MAXIMUM_BYTES_BILLED). Null: no limit."
  type        = number
  default     = null

  validation {
    condition     = var.maximum_bytes_billed == null ? true : var.maximum_bytes_billed >= 10485760
    error_message = "BigQuery bills at least 10 MB (10485760 bytes) for a statement, so a smaller limit would refuse every statement."
  }
}

variable "daily_bytes" {
  description = "Bytes billed in a day after which the stream sensor requests no more runs (ECOMMERSSS_BIGQUERY_DAILY_BYTES). Null: no limit."
  type        = number
  default     = null
}

variable "service_account_id" {
  description = "Name of the platform's service account, before the @."
  type        = string
  default     = "ecommersss"
}

variable "impersonators" {
  description = "Who may impersonate the service account without a key, such as user:ana@example.com or group:data@example.com. If there are any, the output sets ECOMMERSSS_BIGQUERY_IMPERSONATE."
  type        = set(string)
  default     = []
}

variable "workload_identities" {
  description = "Workloads that run as the service account, such as serviceAccount:my-project.svc.id.goog[ecommersss/platform] (namespace and account in Kubernetes) or a principalSet:// of a workload identity pool."
  type        = set(string)
  default     = []
}

variable "readers" {
  description = "Who reads the datasets in reader_datasets. They also need roles/bigquery.jobUser in a project of their own, which pays for their queries."
  type        = set(string)
  default     = []
}

variable "reader_datasets" {
  description = "Datasets that readers may read. Raw and bronze hold personal data. Bronze consists of views, which read raw with the rights of the reader."
  type        = set(string)
  default     = ["gold"]

  validation {
    condition     = length(setsubtract(var.reader_datasets, ["raw", "bronze", "silver", "gold"])) == 0
    error_message = "The datasets with tables or views to read are raw, bronze, silver and gold."
  }
}

variable "labels" {
  description = "More labels for the datasets, for the bill."
  type        = map(string)
  default     = {}
}
