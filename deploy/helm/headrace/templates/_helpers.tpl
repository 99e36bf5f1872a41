{{/* One pipeline is one release. */}}
{{- define "headrace.name" -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "headrace.selector" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "headrace.labels" -}}
{{ include "headrace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Where the pipeline's file lies in a pod. */}}
{{- define "headrace.path" -}}
{{ ternary "/etc/headrace/pipeline.py" .Values.pipeline.path (ne .Values.pipeline.code "") }}
{{- end }}

{{/* What no schema can say: values that belong together. */}}
{{- define "headrace.checked" -}}
{{- if and .Values.pipeline.code .Values.pipeline.path }}
{{- fail "pipeline.code and pipeline.path are both set: give the file, or where it lies in the image" }}
{{- end }}
{{- if not (or .Values.pipeline.code .Values.pipeline.path) }}
{{- fail "no pipeline: give its file by --set-file pipeline.code=pipeline.py, or its place in the image by pipeline.path" }}
{{- end }}
{{- $several := or .Values.autoscaling.enabled (gt (int .Values.workers) 1) }}
{{- if and $several (not .Values.store.urlSecret.name) }}
{{- fail "several workers need a store in common: name the secret with its address in store.urlSecret" }}
{{- end }}
{{- if and .Values.store.urlSecret.name (not .Values.signingKeySecret.name) }}
{{- fail "a store needs a key that signs what lies there: name its secret in signingKeySecret" }}
{{- end }}
{{- if and (not .Values.web.tokenSecret.name) (not .Values.web.allowAnonymous) }}
{{- fail "pages need a token: name its secret in web.tokenSecret, or set web.allowAnonymous=true where the network lets in only those who may" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.workersMin) (int .Values.autoscaling.workersMax)) }}
{{- fail "autoscaling.workersMin is above autoscaling.workersMax" }}
{{- end }}
{{- end }}
